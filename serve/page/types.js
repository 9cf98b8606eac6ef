/**
 * Types that the modules share. Nothing here runs.
 *
 * @typedef {{name: string, colour: string}} Material A colour to paint with, as #rrggbb.
 *
 * @typedef {Object} Model A model that edits.
 * @property {string} id
 * @property {string} sha256 Hash of the bundle; recipes name it.
 * @property {{height: number, width: number}} native Size that it was trained for, in pixels.
 * @property {number} channels 1: its pictures are grey, 3: RGB.
 * @property {boolean} free Whether it takes other sizes.
 * @property {number} multiple_of What sides are multiples of.
 * @property {number} max_pixels Largest area that it edits at once.
 * @property {number} levels Levels of the schedule.
 * @property {number} classes Labels are 0 .. classes - 1; 0: none.
 * @property {number | null} null_label The label of no class, if there is one.
 * @property {boolean} guidance Whether guidance other than 1 is accepted.
 * @property {boolean} text Whether it takes a prompt.
 * @property {Material[] | null} palette
 * @property {Record<string, Option>} defaults Each option's default.
 *
 * @typedef {string | number | boolean | null} Option
 *
 * @typedef {Record<string, any>} Recipe Everything that made an image, as its PNG carries it; `seed` is a text,
 *     because seeds have up to 64 bits.
 *
 * @typedef {Object} EditRequest
 * @property {string} model
 * @property {Blob} guide PNG.
 * @property {Blob | null} mask PNG: white may change, black is kept. null: everything may change.
 * @property {Record<string, Option>} options Options of the edit by name; null ones are left out.
 *
 * @typedef {{step: number, steps: number, image: number, png: Blob | null}} Progress State after `step` of `steps`
 *     evaluations. png: a preview of image number `image`, if this step has one.
 *
 * @typedef {Object} EditCalls
 * @property {(progress: Progress) => void} onPreview
 * @property {AbortSignal} signal Aborting it cancels the edit.
 *
 * @typedef {Object} Backend What makes edits: a server, or a worker in the browser.
 * @property {() => Promise<Model[]>} models
 * @property {(onBytes: (loaded: number, total: number) => void) => Promise<void>} load Get ready to edit. Edits that are
 *     asked for before wait. onBytes: called with the bytes that have come so far, and that come in all.
 * @property {(request: EditRequest, calls: EditCalls) => Promise<Blob[]>} edit The finished images as PNG files that
 *     carry their recipes, in the order of their numbers. Rejects with an AbortError, or an Error whose message is for
 *     people.
 *
 * @typedef {Object} Slot One edit in flight, as kernels/layout.py has it: [C, H, W] flattened, but mask [H, W].
 * @property {Float32Array} x State.
 * @property {Float32Array} h Last prediction of the finished image.
 * @property {Float32Array} guide
 * @property {Float32Array} mask 1: edit, 0: keep, between: from which fraction of t0 on.
 * @property {bigint} seed
 * @property {number} image
 * @property {number} alpha0 Float32, as all numbers of a row that are no integers.
 * @property {number} sigma0
 *
 * @typedef {Record<"time" | "a_x" | "a_o" | "clip" | "guidance" | "c_x" | "c_0" | "c_h" | "c_z" | "k_g" | "k_z" |
 *     "threshold" | "h_threshold" | "step" | "repeat" | "keep_noise", number>} Row A plan's row, one evaluation.
 *
 * @typedef {Object} Result A finished image.
 * @property {Blob} png
 * @property {string} url Address of the PNG, for img elements.
 * @property {Recipe} recipe
 * @property {Blob | null} guide The strokes that it was made from, if they are known.
 * @property {string | null} guideUrl
 *
 * @typedef {{undo: () => void, redo: () => void, bytes: number}} Change An entry of the history.
 *
 * @typedef {{x: number, y: number}} Point In pixels of the painting.
 *
 * @typedef {"brush" | "eraser" | "fill" | "pick" | "hand"} ToolName
 * @typedef {"colour" | "mask"} LayerName
 */

export {};
