// Draws two clips from sheets of frames. `element`, `props` and `watch` are given by gradio, which runs this once.
const find = (selector) => element.querySelector(selector);
const all = (selector) => [...element.querySelectorAll(selector)];
const KEYS = {
  " ": "play", ArrowLeft: "back", ArrowRight: "forward", Home: "first", End: "last", f: "flip", w: "worst",
  1: "side", 2: "wipe", 3: "flipping", 4: "difference",
};
const TICKS = 400; // places of the scrubber in a sound without frames
const state = {
  clip: null, images: [[], []], mode: "side", frame: 0, playing: false, other: false, wipe: 0.5, gain: 4,
  sounds: [], heard: 0, ticks: 1, rate: 1,
};

function load() {
  const clip = props.value && props.value.frames ? props.value : null;
  const same = clip && state.clip && clip.frames === state.clip.frames;
  state.sounds.forEach((sound) => sound.pause());
  state.clip = clip;
  find(".empty").hidden = Boolean(clip);
  find(".full").hidden = !clip;
  element.dataset.ready = "";
  if (!clip) return stop();
  const silent = clip.sounds.length === 0;
  state.ticks = clip.frames > 1 || silent ? clip.frames : TICKS;
  state.rate = clip.fps;
  state.frame = same ? state.frame : silent ? Math.floor(clip.frames / 2) : 0;
  state.other = false;
  loadSounds(clip);
  find(".scrubber").max = state.ticks - 1;
  find(".transport").hidden = state.ticks < 2;
  find(".worst").hidden = clip.worst === null;
  find(".quality").innerHTML = clip.curve;
  find(".downloads").replaceChildren(...clip.downloads.map(download));
  fetchSheets(clip);
  arrange();
}

function download(file) {
  const link = document.createElement("a");
  link.href = file.url;
  link.download = "";
  link.textContent = `Download ${file.name}`;
  return link;
}

function fetchSheets(clip) {
  let missing = 0;
  state.images = clip.sheets.map((urls) => urls.map((url) => {
    const image = new Image();
    missing += 1;
    image.onload = () => {
      missing -= 1;
      if (state.clip !== clip) return;
      draw();
      if (missing === 0) element.dataset.ready = "yes";
    };
    image.src = url;
    return image;
  }));
}

// All sounds play at once and one is heard, so that another one goes on in the very place.
function loadSounds(clip) {
  state.sounds = clip.sounds.map((url) => new Audio(url));
  find(".hear").hidden = state.sounds.length === 0;
  state.sounds.forEach((sound, index) => {
    find(`[data-hear='${index}']`).textContent = ["Hear " + clip.names[0], "Hear " + clip.names[1], "Hear the difference"][index];
    sound.preload = "auto";
    sound.onloadedmetadata = () => { if (clip.frames < 2) state.rate = TICKS / sound.duration; };
    sound.onended = () => { if (index === state.heard) { stop(); show(0); } };
  });
  all("[data-hear]").forEach((button) => { button.hidden = Number(button.dataset.hear) >= state.sounds.length; });
  hear(Math.min(state.heard, Math.max(0, state.sounds.length - 1)));
}

function hear(index) {
  state.heard = index;
  state.sounds.forEach((sound, number) => { sound.muted = number !== index; });
  for (const button of all("[data-hear]")) {
    button.setAttribute("aria-pressed", String(Number(button.dataset.hear) === index));
  }
}

function arrange() {
  const single = state.mode !== "side";
  find(".viewer").dataset.mode = state.mode;
  find(".stage").style.setProperty("--ratio", state.clip.width / state.clip.height);
  for (const button of all("[data-mode]")) {
    if (button.tagName === "BUTTON") button.setAttribute("aria-pressed", String(button.dataset.mode === state.mode));
  }
  find("[data-pane='1']").hidden = single;
  find(".gain").hidden = state.mode !== "difference" || state.clip.sheets.length > 2;
  find(".other").hidden = state.mode !== "flip";
  for (const canvas of all("canvas")) {
    canvas.width = state.clip.width;
    canvas.height = state.clip.height;
    canvas.classList.toggle("small", state.clip.width < 200);
  }
  draw();
}

function paint(context, side, from = 0, to = 1) {
  const { width, height, columns, rows } = state.clip;
  const frame = Math.min(state.frame, state.clip.frames - 1);
  const sheet = Math.floor(frame / (columns * rows));
  const place = frame % (columns * rows);
  const image = state.images[side][sheet];
  if (!image || !image.complete || !image.naturalWidth) return;
  const left = Math.round(from * width);
  const wide = Math.round(to * width) - left;
  if (wide <= 0) return;
  const x = (place % columns) * width + left;
  context.drawImage(image, x, Math.floor(place / columns) * height, wide, height, left, 0, wide, height);
}

function subtract(context) {
  const { width, height } = state.clip;
  paint(context, 0);
  const one = context.getImageData(0, 0, width, height);
  paint(context, 1);
  const two = context.getImageData(0, 0, width, height);
  for (let at = 0; at < one.data.length; at += 1) {
    if (at % 4 !== 3) one.data[at] = Math.min(255, state.gain * Math.abs(one.data[at] - two.data[at]));
  }
  context.putImageData(one, 0, 0);
}

function draw() {
  const clip = state.clip;
  if (!clip) return;
  const [first, second] = all("canvas").map((canvas) => canvas.getContext("2d", { willReadFrequently: true }));
  const captions = all("figcaption");
  captions[1].textContent = clip.names[1];
  if (state.mode === "wipe") {
    paint(first, 0, 0, state.wipe);
    paint(first, 1, state.wipe, 1);
    captions[0].textContent = `${clip.names[0]} | ${clip.names[1]}`;
    find(".viewer").style.setProperty("--wipe", `${100 * state.wipe}%`);
  } else if (state.mode === "difference") {
    const own = clip.sheets.length > 2;
    if (own) paint(first, 2); else subtract(first);
    captions[0].textContent = own ? "the difference, as a sound" : `|${clip.names[0]} − ${clip.names[1]}| × ${state.gain}`;
  } else {
    const side = state.mode === "flip" && state.other ? 1 : 0;
    paint(first, side);
    if (state.mode === "side") paint(second, 1);
    captions[0].textContent = clip.names[side];
  }
  const place = clip.frames > 1 ? `, frame ${state.frame + 1} of ${clip.frames}` : "";
  all("canvas").forEach((canvas, pane) => {
    canvas.setAttribute("aria-label", `${captions[pane].textContent}${place}`);
  });
  find(".scrubber").value = state.frame;
  const time = state.frame / state.rate;
  find(".frame").textContent = state.ticks > clip.frames ? `${time.toFixed(2)} s` : `${state.frame + 1} / ${clip.frames}`;
  if (state.ticks > clip.frames) [first, second].forEach(mark);
  moveCursor();
}

// Where in a spectrogram the sound is.
function mark(context) {
  context.fillStyle = "#ffb84d";
  context.fillRect(Math.round((state.frame / (state.ticks - 1)) * (state.clip.width - 2)), 0, 2, state.clip.height);
}

function moveCursor() {
  for (const curve of all("svg.curve")) {
    const { left, right } = curve.dataset;
    const share = Number(left) + (Number(right) - Number(left)) * (state.frame / (state.clip.frames - 1));
    for (const end of ["x1", "x2"]) curve.querySelector(".cursor").setAttribute(end, share * curve.viewBox.baseVal.width);
  }
}

function show(frame) {
  const count = state.ticks;
  state.frame = ((frame % count) + count) % count;
  draw();
}

function stop() {
  state.playing = false;
  state.sounds.forEach((sound) => sound.pause());
  const button = find("[data-action='play']");
  button.textContent = "▶";
  button.setAttribute("aria-label", "Play");
}

function play() {
  state.playing = true;
  const button = find("[data-action='play']");
  button.textContent = "❚❚";
  button.setAttribute("aria-label", "Pause");
  let begun = performance.now();
  for (const sound of state.sounds) {
    sound.currentTime = state.frame / state.rate;
    sound.play().catch(() => {});
  }
  const tick = (now) => {
    if (!state.playing || !state.clip || !element.isConnected) return stop();
    const leader = state.sounds[state.heard];
    if (leader) {
      for (const sound of state.sounds) {
        if (Math.abs(sound.currentTime - leader.currentTime) > 0.05) sound.currentTime = leader.currentTime;
      }
      const frame = Math.min(state.ticks - 1, Math.floor(leader.currentTime * state.rate));
      if (frame !== state.frame) show(frame);
      return requestAnimationFrame(tick);
    }
    const passed = Math.floor(((now - begun) / 1000) * state.clip.fps);
    if (passed > 0) {
      begun += (passed * 1000) / state.clip.fps;
      show(state.frame + passed);
    }
    requestAnimationFrame(tick);
  };
  requestAnimationFrame(tick);
}

function view(mode) {
  state.mode = mode;
  arrange();
}

const actions = {
  side: () => view("side"),
  wipe: () => view("wipe"),
  flipping: () => view("flip"),
  difference: () => view("difference"),
  first: () => { stop(); show(0); },
  last: () => { stop(); show(state.ticks - 1); },
  play: () => (state.playing ? stop() : play()),
  back: () => { stop(); show(state.frame - 1); },
  forward: () => { stop(); show(state.frame + 1); },
  worst: () => { if (state.clip.worst !== null) { stop(); show(state.clip.worst); } },
  flip: () => {
    if (state.mode !== "flip") { state.other = true; return view("flip"); }
    state.other = !state.other;
    draw();
  },
};

function seek(event) {
  const curve = event.target.closest("svg.curve");
  const box = curve.getBoundingClientRect();
  const { left, right } = curve.dataset;
  const share = ((event.clientX - box.left) / box.width - left) / (right - left);
  stop();
  show(Math.max(0, Math.min(state.clip.frames - 1, Math.round(share * (state.clip.frames - 1)))));
}

function wipe(event) {
  const box = find("canvas").getBoundingClientRect();
  state.wipe = Math.max(0, Math.min(1, (event.clientX - box.left) / box.width));
  draw();
}

element.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (button && button.dataset.mode) view(button.dataset.mode);
  else if (button && button.dataset.hear) hear(Number(button.dataset.hear));
  else if (button && actions[button.dataset.action]) actions[button.dataset.action]();
  else if (event.target.closest("svg.curve")) seek(event);
});
element.addEventListener("input", (event) => {
  if (event.target.matches(".scrubber")) { stop(); show(Number(event.target.value)); }
  if (event.target.matches(".gain input")) {
    state.gain = Number(event.target.value);
    find(".gain output").textContent = `${state.gain}×`;
    draw();
  }
});
element.addEventListener("pointermove", (event) => {
  const dragged = event.pointerType === "mouse" || event.buttons > 0;
  if (state.mode === "wipe" && dragged && event.target.closest("canvas")) wipe(event);
});
element.addEventListener("pointerdown", (event) => {
  if (state.mode === "wipe" && event.target.closest("canvas")) wipe(event);
});
element.addEventListener("keydown", (event) => {
  const name = KEYS[event.key.length === 1 ? event.key.toLowerCase() : event.key];
  if (!state.clip || !name || event.ctrlKey || event.metaKey || event.target.matches("input")) return;
  if (event.key === " " && event.target.matches("button")) return; // the button's own press
  event.preventDefault();
  actions[name]();
});
watch("value", load);
load();
