// What happens, as it happens: the stream of events, opened again whenever it ends.

const MOST_WAIT = 30_000;
const HIDDEN_FOR = 60_000;
const PATIENCE = 3000;
const TYPES = ["object", "cluster", "cluster_removed", "activity"];

const listeners = new EventTarget();
const sign = document.getElementById("stream");
let stream = null;
let missed = false;
let wait = 1000;
let retry = 0;
let hiding = 0;
let saying = 0;

// Calls `listener` with what each event says, until `signal` is aborted. "resync" has nothing to say: events may have
// been missed, and what is shown is to be read anew.
export function on(type, listener, signal) {
  listeners.addEventListener(type, (event) => listener(event.detail), { signal });
}

export function start() {
  open();
  // A browser opens few connections to one host: a tab that nobody sees gives its own up.
  document.addEventListener("visibilitychange", () => {
    clearTimeout(hiding);
    if (document.hidden) hiding = setTimeout(close, HIDDEN_FOR);
    else if (!stream) open();
  });
  window.addEventListener("online", () => !stream && open());
  // A page that is left may be kept for the way back, and would keep its connection.
  window.addEventListener("pagehide", close);
  window.addEventListener("pageshow", () => !stream && open());
}

function open() {
  clearTimeout(retry);
  stream = new EventSource("/api/v1/events");
  stream.addEventListener("open", () => {
    wait = 1000;
    tell("");
    if (missed) say("resync");
    missed = false;
  });
  stream.addEventListener("error", () => {
    missed = true;
    if (!document.hidden) tell("Live updates are away; reconnecting");
    // The browser itself tries again after a broken connection, but not after a refusal.
    if (stream.readyState !== EventSource.CLOSED) return;
    close();
    window.dispatchEvent(new Event("stream-refused"));
    retry = setTimeout(open, wait * (0.75 + Math.random() / 2));
    wait = Math.min(wait * 2, MOST_WAIT);
  });
  stream.addEventListener("resync", () => say("resync"));
  for (const type of TYPES) {
    stream.addEventListener(type, (event) => {
      try {
        say(type, JSON.parse(event.data));
      } catch (error) {
        console.warn(error);
      }
    });
  }
}

function close() {
  clearTimeout(retry);
  stream?.close();
  stream = null;
  missed = true;
}

function say(type, detail) {
  listeners.dispatchEvent(new CustomEvent(type, { detail }));
}

// Not at once: a page that is being left, and a stream that comes back after its pause, are nothing to speak of.
function tell(text) {
  clearTimeout(saying);
  if (text) saying = setTimeout(() => (sign.textContent = text), PATIENCE);
  else sign.textContent = "";
}
