// Numbers, times and names as people read them.

import { h } from "./dom.js";

const NUMBER = new Intl.NumberFormat("en");
const AGO = new Intl.RelativeTimeFormat("en", { numeric: "auto", style: "narrow" });
const MOMENT = new Intl.DateTimeFormat("en-GB", { dateStyle: "medium", timeStyle: "medium" });
const DAY = new Intl.DateTimeFormat("en-GB", { weekday: "long", day: "numeric", month: "long", year: "numeric" });
const CLOCK = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const STEPS = [["second", 60], ["minute", 60], ["hour", 24], ["day", 30], ["month", 12], ["year", Infinity]];

export const STATUSES = ["failed", "progressing", "terminating", "suspended", "unknown", "ready"];
export const KINDS = [
  "Kustomization", "HelmRelease", "GitRepository", "OCIRepository", "HelmRepository", "HelmChart", "Bucket", "ExternalArtifact",
  "ImageRepository", "ImagePolicy", "ImageUpdateAutomation", "Receiver", "Alert", "Provider", "FluxInstance", "ResourceSet",
];
// What its controller does not look at when it is asked to, and what cannot be suspended.
const UNASKED = ["ExternalArtifact", "ImagePolicy", "Alert", "Provider"];
const UNSUSPENDED = ["ExternalArtifact", "ImagePolicy", "FluxInstance", "ResourceSet"];
export const canReconcile = (kind) => !UNASKED.includes(kind);
export const canSuspend = (kind) => !UNSUSPENDED.includes(kind);

export const number = (value) => NUMBER.format(value ?? 0);
export const count = (value, one, many = `${one}s`) => `${number(value)} ${value === 1 ? one : many}`;
export const title = (word) => (word ? word[0].toUpperCase() + word.slice(1) : "");
export const day = (time) => DAY.format(new Date(time));
export const clock = (time) => CLOCK.format(new Date(time));
export const isFlux = (kind) => KINDS.includes(kind);

// How long ago, kept true while it is on the page.
export function ago(time) {
  const moment = new Date(time ?? NaN);
  if (Number.isNaN(moment.getTime())) return h("span", { class: "quiet" }, "–");
  return h("time", { datetime: moment.toISOString(), title: MOMENT.format(moment), "data-ago": true }, since(moment));
}

// A text with its digests cut to what tells them apart.
export const brief = (text) => text.replace(/\bsha\d+:([0-9a-f]{7})[0-9a-f]+/g, "$1");

// A revision, short enough to read: `main@sha1:4f2c9d0e…` is `main@4f2c9d0`.
export function revision(text) {
  if (!text) return h("span", { class: "quiet" }, "–");
  return h("code", { title: text }, brief(text));
}

setInterval(() => {
  for (const element of document.querySelectorAll("time[data-ago]")) {
    const text = since(new Date(element.dateTime));
    if (element.textContent !== text) element.textContent = text;
  }
}, 5000);

function since(moment) {
  let amount = (moment.getTime() - Date.now()) / 1000;
  if (Math.abs(amount) < 5) return "now";
  for (const [unit, size] of STEPS) {
    if (Math.abs(amount) < size) return AGO.format(Math.trunc(amount), unit);
    amount /= size;
  }
  return "";
}
