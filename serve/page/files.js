/** Files that come in: chosen, dropped or pasted. */

import { button, element, input } from "./dom.js";

/** Longest side of a painting in pixels; larger photos are reduced. */
const MOST_SIDE = 2048;

/**
 * Call `open` with each picture that people choose, drop or paste.
 * @param {(file: File) => void} open
 */
export function watchFiles(open) {
  const chooser = input("file");
  const curtain = element("drop", HTMLElement);
  button("open").addEventListener("click", () => chooser.click());
  chooser.addEventListener("change", () => {
    const file = chooser.files?.[0];
    chooser.value = "";
    if (file) open(file);
  });
  const pictureOf = (/** @type {DataTransfer | null} */ data) =>
    [...(data?.files ?? [])].find((file) => file.type.startsWith("image/"));
  addEventListener("paste", (event) => {
    const file = pictureOf(event.clipboardData);
    if (file) open(file);
  });
  addEventListener("dragover", (event) => {
    event.preventDefault();
    curtain.hidden = !event.dataTransfer?.types.includes("Files");
  });
  addEventListener("dragleave", (event) => (curtain.hidden ||= event.relatedTarget === null));
  addEventListener("drop", (event) => {
    event.preventDefault();
    curtain.hidden = true;
    const file = pictureOf(event.dataTransfer);
    if (file) open(file);
  });
}

/**
 * A picture, upright, and the size at which it is painted on.
 * @param {Blob} file
 * @returns {Promise<{picture: ImageBitmap, width: number, height: number, reduced: boolean}>}
 */
export async function decode(file) {
  const picture = await createImageBitmap(file).catch(() => {
    throw new Error("This file is not a picture that the browser can read.");
  });
  const scale = Math.min(1, MOST_SIDE / Math.max(picture.width, picture.height));
  const width = Math.max(1, Math.round(scale * picture.width));
  const height = Math.max(1, Math.round(scale * picture.height));
  return { picture, width, height, reduced: scale < 1 };
}
