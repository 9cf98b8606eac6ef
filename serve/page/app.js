/** The page: makes its parts, and starts. */

import { Actions } from "./actions.js";
import { makeBackend } from "./backend.js";
import { Cursor } from "./cursor.js";
import { button, contextOf, element, input, makeCanvas, messageOf, say } from "./dom.js";
import { Editing } from "./editing.js";
import { loadExample } from "./example.js";
import { decode, watchFiles } from "./files.js";
import { History } from "./history.js";
import { bindKeys } from "./keyboard.js";
import { Painting } from "./painting.js";
import { Palette } from "./palette.js";
import { Results } from "./results.js";
import { Settings } from "./settings.js";
import { keep, recall } from "./storage.js";
import { Tools } from "./tools.js";
import { View } from "./view.js";

/** @import { Backend, Model } from "./types.js" */

/** Most bytes of the history. */
const HISTORY_BYTES = 256 << 20;

/** Milliseconds after a change until it is kept. */
const KEEP_AFTER = 600;

/**
 * Start the page with a back end.
 * @param {Backend} backend
 */
async function start(backend) {
  const models = await backend.models();
  const history = new History(HISTORY_BYTES);
  const painting = new Painting(element("colour", HTMLCanvasElement), element("mask", HTMLCanvasElement), history);
  const view = new View();
  const tools = new Tools(painting, view);
  const palette = new Palette(tools);
  const settings = new Settings();
  const results = new Results(view);
  const chosen = chooseModel(models, (model) => {
    settings.fit(model);
    palette.fit(model.palette);
  });
  const editing = new Editing(backend, painting, settings, () => chosen().id, callsOf(results));
  const actions = new Actions({ painting, tools, palette, settings, results, editing, view });
  new Cursor(tools);
  followPainting(painting, history, view);
  palette.choose(Math.min(3, palette.materials.length - 1));
  const greeting = await begin(chosen(), painting, settings, results);
  say(greeting);
  bindKeys(actions.bindings());
  watchFiles((file) => actions.open(file));
  keepChanges(painting, settings, results);
  document.documentElement.dataset.ready = "";
  await backend.load((loaded, total) => {
    const left = loaded < total;
    say(left ? `Getting the model: ${megabytes(loaded)} of ${megabytes(total)} MB` : "Preparing the model");
  });
  say(editing.busy ? "Editing" : greeting);
}

/** @param {number} bytes */
const megabytes = (bytes) => (bytes / 1e6).toFixed(1);

/**
 * Fill the choice of models. Returns a function that tells the chosen one.
 * @param {Model[]} models
 * @param {(model: Model) => void} fit Called with the model now, and whenever another is chosen.
 */
function chooseModel(models, fit) {
  if (!models.length) throw new Error("The server has no model.");
  const select = element("model", HTMLSelectElement);
  const chosen = () => models.find((model) => model.id === select.value) ?? models[0];
  select.replaceChildren(...models.map(({ id }) => new Option(id, id)));
  select.addEventListener("change", () => fit(chosen()));
  element("models-label", HTMLElement).hidden = models.length === 1;
  element("model-name", HTMLElement).textContent = models.length === 1 ? models[0].id : "";
  fit(chosen());
  return chosen;
}

/**
 * @param {Results} results
 * @returns {import("./editing.js").Calls}
 */
function callsOf(results) {
  return {
    onStart(images) {
      results.start(images);
      button("go").textContent = "Stop";
      say("Editing");
    },
    onPreview: (progress) => results.preview(progress),
    async onDone(images, guide, seconds) {
      const [{ recipe }] = await results.finish(images, guide);
      say(`Done in ${seconds.toFixed(1)} s. Seed ${recipe.seed}, ${recipe.steps} steps.`);
    },
    onError: (error) => say(messageOf(error), "error"),
    onIdle() {
      results.idle();
      button("go").textContent = "Make the edit";
    },
  };
}

/**
 * Keep the frames' shape and the buttons true to the painting.
 * @param {Painting} painting
 * @param {History} history
 * @param {View} view
 */
function followPainting(painting, history, view) {
  const stage = element("stage", HTMLElement);
  const shape = () => {
    stage.style.setProperty("--aspect", String(painting.width / painting.height));
    view.reset();
  };
  painting.addEventListener("resize", shape);
  painting.addEventListener("change", () => (button("clear-mask").hidden = !painting.masked));
  history.addEventListener("change", () => {
    button("undo").disabled = !history.canUndo;
    button("redo").disabled = !history.canRedo;
  });
  shape();
}

/**
 * Show what was kept in this browser; on a first visit the example. Returns what to say of it.
 * @param {Model} model
 * @param {Painting} painting
 * @param {Settings} settings
 * @param {Results} results
 */
async function begin(model, painting, settings, results) {
  const kept = await recall().catch(() => null);
  if (kept) {
    painting.restore(kept.snapshot);
    settings.load(kept.settings);
    input("live").checked = kept.live;
    button("clear-mask").hidden = !painting.masked;
    if (kept.result) await results.finish([kept.result.png], kept.result.guide);
    return "Your painting is back.";
  }
  const ground = model.palette?.[1]?.colour ?? "#808080";
  const example = await loadExample(model);
  const size = { width: painting.width, height: painting.height };
  const { picture, width, height } = example ? await decode(example.strokes) : { picture: null, ...size };
  const context = contextOf(makeCanvas(width, height));
  context.fillStyle = ground;
  context.fillRect(0, 0, width, height);
  if (picture) context.drawImage(picture, 0, 0);
  const colour = context.getImageData(0, 0, width, height);
  painting.restore({ colour, mask: new ImageData(width, height), photo: null, ground });
  if (example) await settings.take((await results.finish([example.result], example.strokes))[0].recipe);
  return example ? "An example. Paint on it, or begin a new one." : "Paint, and see.";
}

/**
 * Keep the painting and the settings in this browser after each change. The document's `data-kept` is there as long as
 * nothing is left to keep.
 * @param {Painting} painting
 * @param {Settings} settings
 * @param {Results} results
 */
function keepChanges(painting, settings, results) {
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  let timer;
  const root = document.documentElement;
  const save = async () => {
    const own = timer;
    const live = input("live").checked;
    await keep({ snapshot: painting.snapshot(), settings: settings.save(), live, result: results.current });
    if (own === timer) root.dataset.kept = "";
  };
  const later = () => {
    delete root.dataset.kept;
    clearTimeout(timer);
    timer = setTimeout(() => save().catch(() => say("This browser does not keep the painting: save it.")), KEEP_AFTER);
  };
  painting.addEventListener("change", later);
  settings.addEventListener("change", later);
  results.addEventListener("show", later);
  input("live").addEventListener("change", later);
}

start(makeBackend()).catch((error) => say(messageOf(error), "error"));
