"use strict";
const bar = document.querySelector(".toolbar");
const samples = [...document.querySelectorAll(".sample")];
const reviewer = document.getElementById("reviewer");
const place = "diffusion_train marks " + bar.dataset.weights;
let marks = {}; // image -> verdict, remark, time, prompt, seed
const earlier = Object.fromEntries(samples.map((sample) =>
  [sample.dataset.image, [...sample.querySelectorAll(".marks li:not(.remark)")].map((line) => line.className)]));

function remembered() {
  try {
    const kept = JSON.parse(localStorage.getItem(place)) || {};
    marks = kept.marks || {};
    reviewer.value = kept.reviewer || "";
  } catch { /* a browser that keeps nothing */ }
}

function remember() {
  try {
    localStorage.setItem(place, JSON.stringify({ reviewer: reviewer.value, marks }));
  } catch { /* likewise */ }
}

function mark(sample, change) {
  const { image, prompt, seed } = sample.dataset;
  const next = { remark: "", ...marks[image], ...change, image, prompt, seed: Number(seed), time: new Date().toISOString() };
  if (next.verdict || next.remark) marks[image] = next; else delete marks[image];
  remember();
  show();
}

// This reviewer's, or else those that the report has taken in.
function verdicts(image) {
  const own = marks[image] && marks[image].verdict;
  return own ? [own] : earlier[image];
}

function show() {
  for (const sample of samples) {
    const now = marks[sample.dataset.image] || { remark: "" };
    sample.toggleAttribute("data-verdict", false);
    if (now.verdict) sample.dataset.verdict = now.verdict;
    sample.dataset.remark = now.remark;
    for (const verdict of ["approve", "reject"])
      sample.querySelector(`.controls .${verdict}`).setAttribute("aria-pressed", String(now.verdict === verdict));
    const remark = sample.querySelector(".remark");
    if (remark !== document.activeElement) remark.value = now.remark;
  }
  const asked = samples.filter((sample) => sample.closest("#brand"));
  const images = new Set(asked.map((sample) => sample.dataset.image));
  const judged = [...images].filter((image) => verdicts(image).length);
  const rejected = judged.filter((image) => verdicts(image).includes("reject")).length;
  document.getElementById("progress").textContent =
    `${judged.length} of ${images.size} brand samples judged` + (judged.length ? `, ${rejected} rejected` : "");
}

function filter() {
  const wanted = document.querySelector("[name=show]:checked").value;
  for (const sample of samples) {
    const keep = wanted === "all" || (wanted === "flagged" ? sample.classList.contains("flagged") : !verdicts(sample.dataset.image).length);
    sample.classList.toggle("hidden", !keep);
  }
}

function save() {
  if (!reviewer.value.trim()) {
    reviewer.placeholder = "who are you?";
    reviewer.focus();
    return;
  }
  const listed = Object.values(marks).map((one) => ({ ...one, verdict: one.verdict || "", reviewer: reviewer.value.trim() }));
  if (!listed.length) {
    document.getElementById("progress").textContent = "nothing is marked yet";
    return;
  }
  const { format, run, weights } = bar.dataset;
  const text = JSON.stringify({ format, run, weights, marks: listed }, null, 1);
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type: "application/json" }));
  link.download = "marks.json";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

remembered();
for (const sample of samples) {
  for (const verdict of ["approve", "reject"])
    sample.querySelector(`.controls .${verdict}`).addEventListener("click", () => {
      const now = marks[sample.dataset.image];
      mark(sample, { verdict: now && now.verdict === verdict ? undefined : verdict });
    });
  sample.querySelector(".remark").addEventListener("input", (event) => mark(sample, { remark: event.target.value }));
}
reviewer.addEventListener("input", remember);
for (const choice of document.querySelectorAll("[name=show]")) choice.addEventListener("change", filter);
document.getElementById("save").addEventListener("click", save);
show();
