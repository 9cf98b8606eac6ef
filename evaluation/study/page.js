// The page of a study: one question after another, each about every pair, in an order of this visit's own.

/** @typedef {{guide: string | null, pictures: [string, string]}} Pair */
/** @typedef {{question: string, pair: number, left: number}} Trial  left: which of the pair's pictures is there */
/** @typedef {Trial & {chosen: number, ms: number}} Answer  ms: milliseconds until the choice */
/** @typedef {{session: string, name: string, trials: Trial[], answers: Answer[]}} Visit */

/** @type {Record<string, {title: string, text: string}>} */
const QUESTIONS = {
  real: {
    title: "Which picture looks more real?",
    text: "You will see two pictures at a time. Choose the one that looks more like a real one. There is no right answer, and no time limit.",
  },
  overall: {
    title: "Which picture is better overall?",
    text: "Above the two pictures you will now see the guide that both were made from. Choose the picture that is both real and true to its guide.",
  },
};

/** @type {{study: string, questions: string[], pairs: Pair[]}} */
const study = JSON.parse(/** @type {string} */ (element("study").textContent));
const kept = `sdedit-study-${study.study}`;
const visit = restored() ?? begun();
let shownAt = 0;
let isKept = true;
let isSaved = false;

/**
 * @param {string} id
 * @returns {HTMLElement}
 */
function element(id) {
  return /** @type {HTMLElement} */ (document.getElementById(id));
}

/** @returns {Visit} */
function begun() {
  const trials = study.questions.flatMap((question) =>
    shuffled([...study.pairs.keys()]).map((pair) => ({ question, pair, left: drawn(2) })),
  );
  const session = Array.from(crypto.getRandomValues(new Uint8Array(8)), (byte) => byte.toString(16).padStart(2, "0"));
  return { session: session.join(""), name: "", trials, answers: [] };
}

/** @returns {Visit | null} */
function restored() {
  try {
    return JSON.parse(localStorage.getItem(kept) ?? "null");
  } catch {
    return null;
  }
}

/**
 * A whole number below `count`, each with the same chance.
 * @param {number} count
 */
function drawn(count) {
  const most = 2 ** 32 - (2 ** 32 % count);
  for (;;) {
    const [word] = crypto.getRandomValues(new Uint32Array(1));
    if (word < most) return word % count;
  }
}

/** @param {number[]} items */
function shuffled(items) {
  for (let last = items.length - 1; last > 0; last--) {
    const other = drawn(last + 1);
    [items[last], items[other]] = [items[other], items[last]];
  }
  return items;
}

function keep() {
  isSaved = false;
  try {
    localStorage.setItem(kept, JSON.stringify(visit));
  } catch {
    isKept = false; // a private window: leaving the page asks first
  }
}

/** @param {"intro" | "trial" | "end"} name */
function show(name) {
  for (const id of ["intro", "trial", "end"]) element(id).hidden = id !== name;
  scrollTo(0, 0);
}

function next() {
  const number = visit.answers.length;
  const trial = visit.trials[number];
  if (trial === undefined) end();
  else if (trial.question !== visit.trials[number - 1]?.question) introduce(trial.question);
  else ask(trial);
}

/** @param {string} question */
function introduce(question) {
  const place = study.questions.indexOf(question);
  element("part").textContent = study.questions.length > 1 ? `Part ${place + 1} of ${study.questions.length}` : "";
  element("intro-title").textContent = QUESTIONS[question].title;
  element("intro-text").textContent = QUESTIONS[question].text;
  element("name-field").hidden = place > 0;
  show("intro");
  element("begin").focus();
}

/** @param {Trial} trial */
function ask(trial) {
  const { guide, pictures } = study.pairs[trial.pair];
  const withGuide = trial.question === "overall" && guide !== null;
  element("question").textContent = QUESTIONS[trial.question].title;
  element("count").textContent = `${visit.answers.length + 1} of ${visit.trials.length}`;
  const progress = /** @type {HTMLProgressElement} */ (element("progress"));
  [progress.max, progress.value] = [visit.trials.length, visit.answers.length];
  element("guide").hidden = !withGuide;
  element("trial").classList.toggle("with-guide", withGuide);
  if (withGuide) /** @type {HTMLImageElement} */ (element("guide-image")).src = guide;
  for (const [side, picture] of /** @type {const} */ ([["left", trial.left], ["right", 1 - trial.left]])) {
    /** @type {HTMLImageElement} */ (element(side).querySelector("img")).src = pictures[picture];
    element(side).blur();
  }
  /** @type {HTMLButtonElement} */ (element("back")).disabled = visit.answers.length === 0;
  show("trial");
  shownAt = performance.now();
}

/** @param {0 | 1} side  0: left */
function choose(side) {
  const trial = visit.trials[visit.answers.length];
  const chosen = side === 0 ? trial.left : 1 - trial.left;
  visit.answers.push({ ...trial, chosen, ms: Math.round(performance.now() - shownAt) });
  keep();
  next();
}

function back() {
  if (visit.answers.pop() === undefined) return;
  keep();
  ask(visit.trials[visit.answers.length]);
}

function end() {
  const [done, all] = [visit.answers.length, visit.trials.length];
  element("summary").textContent =
    `You answered ${done} of ${all}. Save the file, and give it to the person who gave you this page.`;
  element("more").textContent = done === all ? "Back to the last pair" : "Go on answering";
  /** @type {HTMLButtonElement} */ (element("save")).disabled = done === 0;
  element("saved").textContent = "";
  show("end");
  element("save").focus();
}

function save() {
  const { session, name, answers } = visit;
  const text = JSON.stringify({ study: study.study, session, name, answers }, null, 1);
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type: "application/json" }));
  link.download = `answers-${study.study}-${session}.json`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
  isSaved = true;
  element("saved").textContent = `Saved as ${link.download}.`;
}

element("begin").addEventListener("click", () => {
  visit.name = /** @type {HTMLInputElement} */ (element("name")).value.trim();
  keep();
  ask(visit.trials[visit.answers.length]);
});
element("left").addEventListener("click", () => choose(0));
element("right").addEventListener("click", () => choose(1));
element("back").addEventListener("click", back);
element("stop").addEventListener("click", end);
element("more").addEventListener("click", () => (visit.answers.length === visit.trials.length ? back() : next()));
element("save").addEventListener("click", save);
addEventListener("keydown", (event) => {
  if (element("trial").hidden || event.repeat || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "ArrowLeft") choose(0);
  else if (event.key === "ArrowRight") choose(1);
  else if (event.key === "Backspace") back();
  else return;
  event.preventDefault();
});
addEventListener("beforeunload", (event) => {
  if (!isKept && !isSaved && visit.answers.length > 0) event.preventDefault();
});

/** @type {HTMLInputElement} */ (element("name")).value = visit.name;
next();
