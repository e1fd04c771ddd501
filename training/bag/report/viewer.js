// The frames of one recording that have images, one at a time.
const FRAMES_PER_SECOND = 4;
const SCORES = ["mean IoU", "pixels right", "consistency", "confidence", "latency"];

class Viewer {
  constructor(report, images, onFrame) {
    this.report = report;
    this.images = images;
    this.onFrame = onFrame;
    this.slider = document.getElementById("scrubber");
    this.play = document.getElementById("play");
    this.slider.addEventListener("input", () => this.show(Number(this.slider.value)));
    this.play.addEventListener("click", () => (this.timer ? this.stop() : this.start()));
    document.getElementById("previous").addEventListener("click", () => this.step(-1));
    document.getElementById("next").addEventListener("click", () => this.step(1));
    document.getElementById("viewer").addEventListener("keydown", (event) => {
      const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      // The slider moves by itself.
      if (!by || event.target === this.slider) return;
      event.preventDefault();
      this.step(by);
    });
  }

  get frames() {
    return this.report.recordings[this.recording].frames;
  }

  open(recording, frame = 0) {
    this.stop();
    this.recording = recording;
    const any = this.frames.length > 0;
    const scores = this.frames.flatMap((frame) => frame.of.map((its) => its.scores));
    this.scoreNames = SCORES.filter((name) => scores.some((its) => name in its));
    this.slider.max = Math.max(0, this.frames.length - 1);
    for (const control of document.querySelectorAll(".scrubber > *")) control.disabled = !any;
    document.getElementById("panels").hidden = !any;
    document.getElementById("scores").hidden = !any;
    document.getElementById("nothing-kept").hidden = any;
    document.getElementById("readout").textContent = "";
    if (any) this.show(frame);
  }

  step(by) {
    this.show(this.frame + by);
  }

  nearest(seconds) {
    const distance = (frame) => Math.abs(frame.t - seconds);
    return this.frames.reduce((best, frame, place, all) => (distance(frame) < distance(all[best]) ? place : best), 0);
  }

  show(place) {
    if (!this.frames.length) return;
    this.frame = Math.min(Math.max(place, 0), this.frames.length - 1);
    const frame = this.frames[this.frame];
    const where = `${frame.t.toFixed(2)} s`;
    this.slider.value = this.frame;
    this.slider.setAttribute("aria-valuetext", `${where}, ${this.frame + 1} of ${this.frames.length}`);
    document.getElementById("readout").textContent =
      `${where} · stamp ${frame.stamp} · ${this.frame + 1} of ${this.frames.length} frames with images`;
    this.put(document.getElementById("camera"), frame.camera, `Camera at ${where}`);
    const truth = document.getElementById("truth");
    if (truth) this.put(truth, frame.truth, `True labels at ${where}`);
    for (const group of document.querySelectorAll(".panel-group[data-network]")) {
      const its = frame.of[group.dataset.network];
      const name = this.report.models[group.dataset.network];
      for (const image of group.querySelectorAll("img")) {
        this.put(image, its[image.dataset.part], `${image.dataset.part} of ${name} at ${where}`);
      }
      // Of a frame without ground truth the difference is to the frame before.
      group.querySelector("[data-difference]").textContent = frame.truth === null ? "labels that changed" : "wrong pixels";
    }
    this.showScores(frame);
    this.onFrame(frame);
  }

  put(image, place, text) {
    if (place === null) image.removeAttribute("src");
    else image.src = this.images[place];
    image.alt = place === null ? `${text}: none` : text;
  }

  showScores(frame) {
    const names = this.scoreNames;
    const row = (kind, cells) => {
      const made = document.createElement("tr");
      cells.forEach((text, place) => {
        const cell = document.createElement(place && kind !== "head" ? "td" : "th");
        cell.scope = kind === "head" ? "col" : "row";
        if (cell.tagName === "TD") cell.removeAttribute("scope");
        cell.textContent = text;
        made.append(cell);
      });
      return made;
    };
    const unit = (name) => (name === "latency" ? " ms" : " %");
    const table = document.getElementById("scores");
    table.tHead.replaceChildren(row("head", ["network", ...names]));
    table.tBodies[0].replaceChildren(
      ...frame.of.map((its, network) =>
        row("body", [
          this.report.models[network],
          ...names.map((name) => (name in its.scores ? its.scores[name].toFixed(name === "latency" ? 1 : 2) + unit(name) : "–")),
        ]),
      ),
    );
  }

  start() {
    if (this.frame === this.frames.length - 1) this.show(0);
    this.timer = setInterval(() => {
      if (this.frame === this.frames.length - 1) this.stop();
      else this.step(1);
    }, 1000 / FRAMES_PER_SECOND);
    this.play.textContent = "Pause";
    this.play.setAttribute("aria-pressed", "true");
  }

  stop() {
    clearInterval(this.timer);
    this.timer = null;
    this.play.textContent = "Play";
    this.play.setAttribute("aria-pressed", "false");
  }
}
