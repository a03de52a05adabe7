/* The page shim: the first script of every app's page. It mends the app's WebSocket when the connection breaks (htag 2
   by itself falls back to plain HTTP for good after one abnormal close), and says when and why the app ended.
   The page is the app's: it can undo all of this, and would harm its own visitor only. */
(() => {
  "use strict";
  const { app, sockets, base: ownBase } = document.currentScript?.dataset ?? {};
  if (!app) return;
  const mends = sockets !== "own"; // else it is no htag page: nobody but the page itself can mend its connections

  const FIRST_RETRY_MS = 200, LAST_RETRY_MS = 5000, GIVE_UP_MS = 120_000;
  const SETTLED_MS = 5000; // a connection that lasted this long was a good one: the next break starts afresh
  const QUEUE_BYTES = 16 * 1024 * 1024, UNANSWERED = 256;
  const POLL_MS = 30_000, ASK_MS = 10_000, OWN_MS = 2000;
  const SIGNED_OUT = 4401; // the close code of the gateway, as in sign_ins.py

  const { fetch: nativeFetch, WebSocket: NativeSocket, EventSource: NativeSource } = window;
  const base = ownBase ?? (`${location.pathname}/`.startsWith(`/${app}/`) ? `/${app}/` : "/");

  // ---------------------------------------------------------------- what the gateway knows of this app

  let declined = false; // the visitor wants to keep the old version
  let asking = null, poll = 0, over = false, sandbox = "", doubt = false, signedIn = false;

  /** Ask once, however many want to know. Resolves to the status, or to null if there was no good answer. */
  function ask() {
    return (asking ??= request().finally(() => { asking = null; }));
  }

  async function request() {
    let status = null;
    try {
      const answer = await nativeFetch.call(window, `/-/status?app=${encodeURIComponent(app)}`, {
        cache: "no-store", headers: { Accept: "application/json" }, signal: AbortSignal.timeout(ASK_MS),
      });
      if (answer.ok) status = await answer.json();
    } catch { /* no answer is an answer */ }
    if (!over) heed(status);
    return status;
  }

  function heed(status) {
    clearTimeout(poll);
    if (status?.reload) return location.reload();
    if (status && signedIn && !status.signed_in) return signedOut(); // in another tab, or by an operator
    signedIn ||= Boolean(status?.signed_in);
    // A gateway that has just come up may not know of us yet; one that says so twice is believed.
    if (status?.state === "ended" || (status?.state === "none" && doubt)) return end(status);
    if (status) doubt = status.state === "none";
    if (doubt) askSoon(1000);
    if (status?.state === "ready" && status.sandbox) {
      // Another tab started the app anew: this page belongs to the old one, and so does whatever waits to be sent.
      if (sandbox && sandbox !== status.sandbox) return location.reload();
      sandbox = status.sandbox;
    }
    if (status?.outdated && !declined) news();
    else if (status) bars.hide("news");
    if (status) for (const socket of down) if (socket.parked()) socket.wake();
    appsOwn.heard(status);
    let wait_ms = down.has(appsOwn) ? OWN_MS : POLL_MS;
    const left_s = status?.left_s ?? Infinity;
    if (left_s <= status?.warn_s) {
      warn(left_s, status.left_why);
      wait_ms = Math.min(wait_ms, Math.max(left_s * 1000 + 200, 500));
    } else if (status) {
      bars.hide("warning");
      wait_ms = Math.min(wait_ms, Math.max((left_s - status.warn_s) * 1000 + 50, 500));
    }
    poll = setTimeout(() => { if (!document.hidden) ask(); }, wait_ms);
  }

  let soon = 0;
  function askSoon(delay_ms = 500) {
    soon ||= setTimeout(() => { soon = 0; ask(); }, delay_ms);
  }

  function start() {
    const here = location.pathname + location.search;
    location.assign(`/-/start?app=${encodeURIComponent(app)}&next=${encodeURIComponent(here)}${location.hash}`);
  }

  function signedOut() {
    const here = location.pathname + location.search;
    end({
      title: "You are signed out",
      text: "What you have open here goes on for a while. Sign in to come back to it.",
      action: "Sign in",
      act: () => location.assign(`/-/login?next=${encodeURIComponent(here)}`),
    });
  }

  /** Take the new version: the old one ends, with whatever isn't stored. */
  async function renew() {
    // It may have been taken back, or nobody may start anything now: then the old one is all that there is.
    if (!(await ask())?.outdated || over) return;
    over = true;
    bars.hide("news");
    try {
      await nativeFetch.call(window, "/-/stop", { method: "POST", body: new URLSearchParams({ app }), redirect: "manual" });
    } catch { /* then the start finds the old one, and opens that */ }
    start();
  }

  async function stay() {
    try {
      await nativeFetch.call(window, "/-/stay", { method: "POST", body: new URLSearchParams({ app }) });
    } catch { /* the next status tells */ }
    ask();
  }

  // ---------------------------------------------------------------- what the visitor sees

  const STYLE = `
    :host { all: initial; color-scheme: light dark;
      --sheet: #fff; --ink: #1d2327; --soft: #5a6570; --line: #d5d2cb; --accent: #0b6e75; --on-accent: #fff; }
    @media (prefers-color-scheme: dark) { :host {
      --sheet: #1d2226; --ink: #e8e6e1; --soft: #a3adb5; --line: #454d54; --accent: #6cc7cd; --on-accent: #0d2527; } }
    * { box-sizing: border-box; font: 16px/1.5 system-ui, sans-serif; }
    [hidden] { display: none !important; }
    dialog { max-width: min(28rem, calc(100vw - 2rem)); padding: 1.75rem; border: 1px solid var(--line); border-radius: 1rem;
      background: var(--sheet); color: var(--ink); box-shadow: 0 1rem 3rem rgb(0 0 0 / .25); }
    dialog::backdrop { background: rgb(20 25 28 / .55); }
    h2 { margin: 0 0 .5rem; font-size: 1.35rem; line-height: 1.25; font-weight: 650; }
    p { margin: 0 0 1.25rem; color: var(--soft); overflow-wrap: anywhere; }
    p.id { margin: 1rem 0 0; font-size: .875rem; }
    button { min-height: 2.75rem; padding: .5rem 1.1rem; border: 1px solid var(--accent); border-radius: .6rem;
      background: var(--accent); color: var(--on-accent); font-weight: 600; cursor: pointer; }
    :focus-visible { outline: 3px solid var(--accent); outline-offset: 2px; }
    .bar { position: fixed; z-index: 2147483647; left: 50%; bottom: max(1rem, env(safe-area-inset-bottom));
      transform: translateX(-50%); width: max-content; max-width: calc(100vw - 2rem); display: flex; gap: .9rem; align-items: center;
      padding: .6rem 1.1rem; min-height: 3.5rem; border: 1px solid var(--line); border-radius: .9rem;
      background: var(--sheet); color: var(--ink); box-shadow: 0 .4rem 1.5rem rgb(0 0 0 / .2); }
    .bar > button { margin-right: -.5rem; flex: none; }
    .bar > .no { background: transparent; color: var(--ink); border-color: var(--line); }
    .clock { font-variant-numeric: tabular-nums; }
    @media print { .bar { display: none; } }`;

  function make(tag, properties, ...children) {
    const element = Object.assign(document.createElement(tag), properties);
    element.append(...children);
    return element;
  }

  let root = null;
  function shadow() {
    if (!root) {
      root = document.createElement("div").attachShadow({ mode: "open" });
      const sheet = new CSSStyleSheet();
      sheet.replaceSync(STYLE);
      root.adoptedStyleSheets = [sheet];
      root.host.id = "htagweb-live";
    }
    // Beside <body>, not in it: both generations replace the body's content, htag 1 the element too.
    if (!root.host.isConnected) document.documentElement.append(root.host);
    return root;
  }

  /** One bar at the foot of the page, for the gravest of what there is to say. */
  const bars = {
    said: {}, // kind: { text, clock, label, act }
    parts: null,
    show(kind, said) { this.said[kind] = said; this.draw(); },
    hide(kind) { if (this.said[kind]) { delete this.said[kind]; this.draw(); } },
    draw() {
      const now = this.said.ended ?? this.said.lost ?? this.said.warning ?? this.said.news;
      if (!now && !this.parts) return;
      this.parts ??= {
        // The clock is not part of the spoken text: it would be read out every second.
        text: make("span", { role: "status" }),
        clock: make("span", { className: "clock", ariaHidden: "true" }),
        button: make("button", { type: "button" }),
        no: make("button", { type: "button", className: "no" }),
      };
      const { text, clock, button, no } = this.parts;
      this.bar ??= make("div", { className: "bar" }, make("span", {}, text, " ", clock), button, no);
      if (this.bar.getRootNode() !== shadow()) shadow().append(this.bar);
      this.bar.hidden = !now;
      if (text.textContent !== (now?.text ?? "")) text.textContent = now?.text ?? "";
      clock.textContent = now?.clock ?? "";
      clock.hidden = !now?.clock;
      button.textContent = now?.label ?? "";
      button.hidden = !now?.label;
      button.onclick = now?.act ?? null;
      no.textContent = now?.otherwise ?? "";
      no.hidden = !now?.otherwise;
      no.onclick = now?.decline ?? null;
    },
  };

  let ticking = 0, ends_at_ms = 0;
  function warn(left_s, why) {
    ends_at_ms = performance.now() + left_s * 1000;
    const tick = () => {
      const left = Math.max(0, Math.ceil((ends_at_ms - performance.now()) / 1000));
      const clock = `${Math.floor(left / 60)}:${String(left % 60).padStart(2, "0")}`;
      if (!bars.said.warning) { clearInterval(ticking); ticking = 0; return; }
      Object.assign(bars.said.warning, { clock });
      bars.draw();
    };
    bars.show("warning", why === "lifetime"
      ? { text: "This app has run for as long as it may. It ends in" }
      : { text: "Still there? Unused, this app ends in", label: "Stay", act: stay });
    ticking ||= setInterval(tick, 500);
    tick();
  }

  function news() {
    bars.show("news", {
      text: "There is a new version of this app. Opening it starts afresh.", label: "Open it", act: renew,
      otherwise: "Not now", decline() { declined = true; bars.hide("news"); },
    });
  }

  function end(status) {
    if (over) return;
    over = true;
    bars.hide("news");
    const act = status.act ?? start;
    const title = status.title || "This app isn't running", action = status.action || "Start again";
    bars.hide("warning");
    bars.hide("lost");
    const dialog = make("dialog", {},
      make("h2", { id: "title", textContent: title }),
      make("p", { id: "text", textContent: status.text || "" }),
      make("button", { type: "button", autofocus: true, textContent: action, onclick: act }),
    );
    if (status.error_id) dialog.append(make("p", { className: "id", textContent: `When you ask for help, quote ${status.error_id}.` }));
    dialog.setAttribute("aria-labelledby", "title");
    dialog.setAttribute("aria-describedby", "text");
    // Escape leads back to the dead page, where something may be worth copying; the way on stays in sight.
    dialog.onclose = () => bars.show("ended", { text: `${title}.`, label: action, act });
    shadow().append(dialog);
    dialog.showModal();
  }

  const down = new Set(); // what is being mended: sockets of ours, requests that are repeated, the app's own connection
  /** htag 1's page mends its connection by itself, and tells us of it by events. */
  const appsOwn = {
    silent: false,
    parked: () => false,
    wake: () => document.dispatchEvent(new Event("htagweb:wake")),
    /** Where the gateway answers, the page has a way on; where it didn't before, its next attempt may be far off. */
    heard(status) {
      if (!status) { this.silent = down.has(this); return; }
      if (down.delete(this)) tellLoss();
      if (this.silent) this.wake();
      this.silent = false;
    },
  };
  document.addEventListener("htagweb:down", () => {
    if (over) return;
    down.add(appsOwn);
    tellLoss();
    ask();
  });
  document.addEventListener("htagweb:up", () => {
    if (down.delete(appsOwn)) tellLoss();
  });
  let slow = 0;
  function tellLoss() {
    if (!down.size || over) {
      clearTimeout(slow);
      slow = 0;
      return bars.hide("lost");
    }
    const parked = [...down].some((link) => link.parked());
    if (parked) bars.show("lost", { text: "The connection is lost.", label: "Try again", act: wake });
    else if (bars.said.lost) bars.show("lost", { text: "The connection is lost. Trying again…" });
    else slow ||= setTimeout(() => { // most breaks are over before one would read it
      bars.show("lost", { text: "The connection is lost. Trying again…" });
      tellLoss();
    }, 1000);
  }

  function wake() {
    for (const link of down) link.wake();
  }

  // An event of htag 2 has an id, which comes back with its answer. One that wasn't answered when the connection broke is
  // sent again; the sandbox knows by its id whether it came through before.
  const EVENT_ID = /"callback_id":\s*"([^"\\]+)"/g;
  function eventIds(text) {
    return typeof text === "string" ? [...text.matchAll(EVENT_ID)].map((found) => found[1]) : [];
  }

  // ---------------------------------------------------------------- the WebSocket that mends itself

  const { CONNECTING, OPEN, CLOSING, CLOSED } = NativeSocket;

  class LiveSocket extends EventTarget {
    #args; #socket; #state = CONNECTING; #binaryType = "blob";
    #queue = []; #queued = 0; // what the page sent while there was no connection, and its bytes
    #openedAt = 0; #lostAt = 0; #tries = 0; #timer = 0; #parked = false;
    #unanswered = new Map(); // id of an event: its text

    constructor(...args) {
      super();
      this.#args = args;
      this.#connect();
    }

    #connect() {
      const socket = new NativeSocket(...this.#args);
      socket.binaryType = this.#binaryType;
      socket.onopen = () => this.#opened();
      socket.onmessage = (event) => {
        if (this.#unanswered.size) for (const id of eventIds(event.data)) this.#unanswered.delete(id);
        this.dispatchEvent(new MessageEvent("message", { data: event.data, origin: event.origin }));
      };
      socket.onclose = (event) => this.#closed(event);
      this.#socket = socket;
      if (this.#state === OPEN) this.#timer = setTimeout(() => socket.close(), ASK_MS);
    }

    #opened() {
      clearTimeout(this.#timer);
      this.#openedAt = performance.now();
      const waiting = this.#queue;
      [this.#queue, this.#queued] = [[], 0];
      for (const data of this.#unanswered.values()) this.#socket.send(data);
      for (const data of waiting) this.#put(data);
      down.delete(this);
      tellLoss();
      if (this.#state !== CONNECTING) return;
      this.#state = OPEN;
      this.dispatchEvent(new Event("open"));
    }

    #closed({ code, reason, wasClean }) {
      if (code === SIGNED_OUT) return signedOut();
      // Without a code, with 1000 or one of the app's own: it was meant, by the page or by the app. A connection that
      // never opened isn't mended either, so that the app can fall back to HTTP where WebSockets are blocked.
      const meant = code === 1000 || code === 1005 || code >= 3000;
      if (this.#state !== OPEN || meant) {
        if (!over) ask();
        return this.#finish(code, reason, wasClean);
      }
      if (over) return;
      const now = performance.now();
      if (this.#openedAt && now - this.#openedAt > SETTLED_MS) this.#lostAt = this.#tries = 0;
      this.#openedAt = 0;
      this.#lostAt ||= now;
      down.add(this);
      this.#retry(code === 1001 ? 0 : undefined); // "going away": the gateway said so, and knows why
      tellLoss();
    }

    #retry(delay_ms = Math.min(LAST_RETRY_MS, FIRST_RETRY_MS * 2 ** this.#tries) * (0.5 + Math.random() / 2)) {
      clearTimeout(this.#timer);
      this.#tries++;
      const timer = setTimeout(async () => {
        const status = await ask();
        if (over || this.#state !== OPEN || this.#timer !== timer) return; // meanwhile wake() may have begun another
        if (performance.now() - this.#lostAt > GIVE_UP_MS) return this.#giveUp(status);
        if (status?.state === "ready") this.#connect();
        else this.#retry();
      }, delay_ms);
      this.#timer = timer;
    }

    #giveUp(status) {
      // HTTP works and WebSockets don't: now the app's own fallback is the better way on.
      if (status) return this.#finish(1006, "", false);
      this.#parked = true;
      tellLoss();
    }

    #finish(code, reason, wasClean) {
      this.#drop();
      this.#state = CLOSED;
      down.delete(this);
      tellLoss();
      if (!wasClean) this.dispatchEvent(new Event("error"));
      this.dispatchEvent(new CloseEvent("close", { code, reason, wasClean }));
    }

    #drop() {
      clearTimeout(this.#timer);
      this.#timer = 0;
      const socket = this.#socket;
      socket.onopen = socket.onmessage = socket.onclose = null;
      socket.close();
    }

    parked() { return this.#parked; }

    /** Try again now: the network is back, or the visitor wants it. */
    wake() {
      if (this.#state !== OPEN || this.#socket.readyState < CLOSING) return;
      if (this.#parked) this.#lostAt = performance.now();
      [this.#parked, this.#tries] = [false, 0];
      this.#retry(0);
      tellLoss();
    }

    send(data) {
      // Right after a break the native socket knows of it before its close event tells us.
      if (this.#state !== OPEN || (this.#socket.readyState === OPEN && !this.#queue.length)) {
        this.#put(data);
        if (bars.said.warning) askSoon();
        return;
      }
      const binary = data instanceof Blob || data instanceof ArrayBuffer || ArrayBuffer.isView(data);
      const kept = binary ? new Blob([data]) : String(data); // a copy: the page may reuse its buffer
      this.#queued += new Blob([kept]).size;
      if (this.#queued > QUEUE_BYTES) return this.#finish(1006, "", false);
      this.#queue.push(kept);
      if (this.#parked) this.wake();
    }

    #put(data) {
      this.#socket.send(data);
      const [id] = eventIds(data);
      if (id && this.#unanswered.size < UNANSWERED) this.#unanswered.set(id, data);
    }

    close(...args) {
      if (this.#state >= CLOSING) return;
      if (this.#state === OPEN && this.#socket.readyState !== OPEN) {
        this.#drop(); // nobody is at the other end who could close with us
        this.#state = CLOSING;
        setTimeout(() => this.#finish(args[0] ?? 1005, args[1] ?? "", true));
        return;
      }
      this.#socket.close(...args); // throws where the arguments are wrong, before anything has changed
      this.#state = CLOSING;
    }

    get readyState() { return this.#state; }
    get url() { return this.#socket.url; }
    get protocol() { return this.#socket.protocol; }
    get extensions() { return this.#socket.extensions; }
    get bufferedAmount() { return this.#queued + this.#socket.bufferedAmount; }
    get binaryType() { return this.#binaryType; }
    set binaryType(type) {
      this.#socket.binaryType = type;
      this.#binaryType = this.#socket.binaryType;
    }
  }

  const handlers = new WeakMap(); // socket: { open, message, … }
  for (const type of ["open", "message", "error", "close"]) {
    Object.defineProperty(LiveSocket.prototype, `on${type}`, {
      configurable: true,
      enumerable: true,
      get() { return handlers.get(this)?.[type] ?? null; },
      set(handler) {
        if (!handlers.has(this)) handlers.set(this, {});
        const mine = handlers.get(this);
        if (!(type in mine)) this.addEventListener(type, (event) => mine[type]?.call(this, event));
        mine[type] = typeof handler === "function" ? handler : null;
      },
    });
  }
  // So that `socket instanceof WebSocket` holds, and the constants are there.
  Object.setPrototypeOf(LiveSocket.prototype, NativeSocket.prototype);

  function isOurs(address) {
    try {
      const url = new URL(address, document.baseURI);
      return url.host === location.host && url.pathname.startsWith(base) && !url.pathname.startsWith("/-/");
    } catch {
      return false; // the native one throws what it has to
    }
  }

  const AnySocket = new Proxy(NativeSocket, {
    construct(target, args, asked) {
      if (!mends) {
        const socket = Reflect.construct(target, args, asked);
        if (isOurs(args[0])) socket.addEventListener("close", () => { if (!over) askSoon(); });
        return socket;
      }
      // A class of the page's own that extends WebSocket gets what it expects.
      return asked === AnySocket && isOurs(args[0]) ? new LiveSocket(...args) : Reflect.construct(target, args, asked);
    },
  });
  window.WebSocket = AnySocket;

  // ---------------------------------------------------------------- the app's other ways to talk

  function heedWord(word) {
    if ((word === "ended" || word === "none") && !over) ask();
  }

  /** An event of htag 2 that goes by HTTP: the same promise as over a socket. */
  async function post(address, options) {
    const link = { parked: () => false, wake() {} };
    const begun = performance.now();
    try {
      for (let tries = 0; ; tries++) {
        const answer = await nativeFetch.call(window, address, options).catch((problem) => problem);
        const lost = !(answer instanceof Response) || answer.status === 502 || answer.status === 503;
        if (!lost) return answer;
        down.add(link);
        tellLoss();
        // The event stream broke with it, so what the event leads to must come with its answer.
        options = { ...options, body: JSON.stringify({ ...JSON.parse(options.body), fallback: true }) };
        for (let state = ""; state !== "ready";) {
          await new Promise((later) => setTimeout(later, Math.min(LAST_RETRY_MS, FIRST_RETRY_MS * 2 ** tries)));
          state = (await ask())?.state;
          if (over || performance.now() - begun > GIVE_UP_MS) {
            if (answer instanceof Response) return answer;
            throw answer;
          }
        }
      }
    } finally {
      down.delete(link);
      tellLoss();
    }
  }

  function isEvent([address, options]) {
    return mends && options?.method === "POST" && typeof address === "string" && address === `${base}event`
      && eventIds(options.body).length > 0;
  }

  window.fetch = function fetch(...args) {
    const answer = isEvent(args) ? post(...args) : nativeFetch.apply(window, args);
    answer.then((response) => heedWord(response.headers.get("X-Htagweb")), () => {});
    if (bars.said.warning) askSoon();
    return answer;
  };

  const nativeSend = XMLHttpRequest.prototype.send;
  XMLHttpRequest.prototype.send = function send(...args) {
    this.addEventListener("load", () => {
      if (this.responseURL.startsWith(`${location.origin}/`)) heedWord(this.getResponseHeader("X-Htagweb"));
    }, { once: true });
    return nativeSend.apply(this, args);
  };

  window.EventSource = class EventSource extends NativeSource {
    constructor(...args) {
      super(...args);
      this.addEventListener("error", () => { if (!over) askSoon(); });
    }
  };

  // ---------------------------------------------------------------- when to look

  document.addEventListener("visibilitychange", () => {
    if (document.hidden || over) return;
    ask();
    wake();
  });
  window.addEventListener("online", wake);
  askSoon(0); // learn which sandbox this page belongs to
})();
