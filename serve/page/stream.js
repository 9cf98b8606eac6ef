/** Server-sent events of an answer to POST, which EventSource cannot read. */

/**
 * Yield [event, data] for each event until the answer ends. Comments are left out.
 * @param {ReadableStream<Uint8Array>} body
 * @returns {AsyncGenerator<[string, any]>}
 */
export async function* readEvents(body) {
  const decoder = new TextDecoder();
  const reader = body.getReader();
  let text = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      text += decoder.decode(value, { stream: true });
      const blocks = text.split("\n\n");
      text = blocks.pop() ?? "";
      for (const block of blocks) {
        const event = parseEvent(block);
        if (event) yield event;
      }
    }
  } finally {
    reader.releaseLock();
  }
}

/**
 * @param {string} block
 * @returns {[string, any] | null}
 */
function parseEvent(block) {
  const name = /^event: (.*)$/m.exec(block);
  const data = /^data: (.*)$/m.exec(block);
  return name && data ? [name[1], JSON.parse(data[1])] : null;
}
