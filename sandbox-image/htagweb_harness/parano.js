/* The page's half of parano mode; parano.py and seal.py are the other. It agrees on a key with the app, asks for the real
   page over a sealed channel, and puts itself between that page and the network: its fetch, WebSocket and EventSource seal
   what goes to the app and open what comes from it. The keys can't be taken out of the browser's key store. */
(async () => {
  "use strict";
  const { fetch: clearFetch, WebSocket: ClearSocket, EventSource: ClearSource } = window;
  const here = location.pathname.endsWith("/") ? location.pathname : `${location.pathname}/`;
  const BASE = document.currentScript.dataset.base || here;
  const WAY = `${BASE}_sealed`, SEALED = "application/vnd.htagweb.sealed";
  const EXCHANGE = "exchange", STREAM = "stream", SOCKET = "socket"; // forms of a channel
  const HEAD = "h", TEXT = "t", BYTES = "b", END = "z"; // kinds of a record
  const BROKEN = 4801, DENIED = 4803, GONE = 4810; // why the app's side closed a socket
  const POINT_BYTES = 65, RETRY_MS = 3000, SLOW_MS = 1000, TRIES = 4, PAUSE_MS = 800;

  const encoder = new TextEncoder(), decoder = new TextDecoder();
  const utf8 = (text) => encoder.encode(text);

  function joined(...parts) {
    const whole = new Uint8Array(parts.reduce((size, part) => size + part.length, 0));
    let at = 0;
    for (const part of parts) { whole.set(part, at); at += part.length; }
    return whole;
  }

  function number(value, size) {
    const bytes = new Uint8Array(size);
    for (let i = size; i--; value = Math.floor(value / 256)) bytes[i] = value % 256;
    return bytes;
  }

  /** Asks again for a while if there is no answer, or none but of a server that waits for another. */
  async function patiently(ask) {
    for (let tries = 1; ; tries++) {
      const answer = await ask().catch((problem) => problem);
      const good = answer instanceof Response;
      if (tries === TRIES || (good && ![502, 503, 504].includes(answer.status))) {
        if (good) return answer;
        throw answer;
      }
      await new Promise((later) => setTimeout(later, PAUSE_MS));
    }
  }

  // ---------------------------------------------------------------- the key

  let name = null, toApp = null, toPage = null;

  async function agree() {
    const { subtle } = crypto, CURVE = { name: "ECDH", namedCurve: "P-256" };
    const own = await subtle.generateKey(CURVE, false, ["deriveBits"]);
    const point = new Uint8Array(await subtle.exportKey("raw", own.publicKey));
    const answer = await patiently(() => clearFetch(`${WAY}/agree`, { method: "POST", body: point, cache: "no-store" }));
    if (!answer.ok) throw new Error(`the app answered with status ${answer.status}`);
    const said = new Uint8Array(await answer.arrayBuffer()), theirPoint = said.subarray(0, POINT_BYTES);
    const theirs = await subtle.importKey("raw", theirPoint, CURVE, false, []);
    // By way of its bits: not every browser makes a key for HKDF of one for ECDH.
    const bits = await subtle.deriveBits({ name: "ECDH", public: theirs }, own.privateKey, 256);
    const secret = await subtle.importKey("raw", bits, "HKDF", false, ["deriveKey"]);
    new Uint8Array(bits).fill(0);
    const key = (info, use) => subtle.deriveKey(
      { name: "HKDF", hash: "SHA-256", salt: joined(point, theirPoint), info: utf8(info) },
      secret, { name: "AES-GCM", length: 256 }, false, [use],
    );
    toApp = await key("htagweb parano 1: to the app", "encrypt");
    toPage = await key("htagweb parano 1: to the page", "decrypt");
    name = said.subarray(POINT_BYTES);
  }

  let channels = 0;
  class Channel {
    #number = number(++channels, 4);
    #form; #sealed = 0; #opened = 0;
    constructor(form) { this.#form = utf8(form); }

    #algorithm(count) {
      return { name: "AES-GCM", iv: joined(this.#number, number(count, 8)), additionalData: this.#form };
    }
    /** Records get their place when this is called: call it in the order of the wire. */
    async seal(kind, data = new Uint8Array()) {
      return new Uint8Array(await crypto.subtle.encrypt(this.#algorithm(this.#sealed++), toApp, joined(utf8(kind), data)));
    }
    /** The first record, with what tells the app whose it is. */
    async begin(head) { return joined(name, this.#number, await this.seal(HEAD, utf8(JSON.stringify(head)))); }

    /** Throws where it isn't the next record of this channel. */
    async open(record) {
      const plain = new Uint8Array(await crypto.subtle.decrypt(this.#algorithm(this.#opened++), toPage, record));
      return [String.fromCharCode(plain[0]), plain.subarray(1)];
    }
  }

  // ---------------------------------------------------------------- what is the app's

  /** The address as a URL if it is the app's own, else null. */
  function ours(address) {
    let url;
    try { url = new URL(address, document.baseURI); } catch { return null; }
    return url.host === location.host && url.pathname.startsWith(BASE) && !url.pathname.startsWith("/-/") ? url : null;
  }
  const target = (url) => ({ path: `/${url.pathname.slice(BASE.length)}`, query: url.search.slice(1) });

  let leaving = false;
  /** The sandbox doesn't know this page: it is a new one, or forgot the key. */
  function reload() {
    if (!leaving) location.reload();
    leaving = true;
  }

  function handlers(made, ...types) {
    const set = new WeakMap(); // object: { open, message, … }
    for (const type of types) {
      Object.defineProperty(made.prototype, `on${type}`, {
        configurable: true,
        enumerable: true,
        get() { return set.get(this)?.[type] ?? null; },
        set(handler) {
          if (!set.has(this)) set.set(this, {});
          const mine = set.get(this);
          if (!(type in mine)) this.addEventListener(type, (event) => mine[type]?.call(this, event));
          mine[type] = typeof handler === "function" ? handler : null;
        },
      });
    }
  }

  // ---------------------------------------------------------------- fetch

  /** Reads records off a body, however it is cut into pieces. */
  class Records {
    #reader; #rest = new Uint8Array();
    constructor(body) { this.#reader = body.getReader(); }

    async #bytes(size) {
      const parts = [this.#rest];
      for (let have = this.#rest.length; have < size;) {
        const { value, done } = await this.#reader.read();
        if (done) throw new TypeError("the answer was cut off");
        parts.push(value);
        have += value.length;
      }
      const all = parts.length > 1 ? joined(...parts) : parts[0];
      this.#rest = all.subarray(size);
      return all.subarray(0, size);
    }
    async next() {
      const size = new DataView((await this.#bytes(4)).slice().buffer).getUint32(0);
      return this.#bytes(size);
    }
    /** Nothing may follow. Read to its end, a connection can be used again. */
    async end() {
      if (this.#rest.length || !(await this.#reader.read()).done) throw new TypeError("the answer goes on after its end");
    }
    cancel() { return this.#reader.cancel(); }
  }

  async function sealedRequest(channel, request, url) {
    const body = new Uint8Array(await request.arrayBuffer());
    const begun = await channel.begin({ method: request.method, ...target(url), headers: [...request.headers] });
    const parts = [begun.subarray(0, 20)];
    for (const record of [begun.subarray(20), ...(body.length ? [await channel.seal(BYTES, body)] : []), await channel.seal(END)]) {
      parts.push(number(record.length, 4), record);
    }
    return joined(...parts);
  }

  let turn = Promise.resolve(); // requests leave in the order of their calls, however long each takes to seal
  async function sealedFetch(request, url) {
    const channel = new Channel(EXCHANGE);
    const sealed = turn.then(() => sealedRequest(channel, request, url));
    turn = sealed.catch(() => {});
    const answer = await clearFetch(WAY, { method: "POST", body: await sealed, cache: "no-store", signal: request.signal });
    if (answer.headers.get("Content-Type") !== SEALED) return unsealed(answer);
    const records = new Records(answer.body);
    const opened = async () => {
      try {
        return await channel.open(await records.next());
      } catch (problem) {
        records.cancel().catch(() => {});
        throw problem instanceof TypeError || problem.name === "AbortError" ? problem : new TypeError("the answer isn't the app's");
      }
    };
    const [, said] = await opened();
    const { status, headers } = JSON.parse(decoder.decode(said));
    const content = new ReadableStream({
      async pull(controller) {
        const [kind, data] = await opened();
        if (kind !== END) return controller.enqueue(data);
        await records.end();
        controller.close();
      },
      cancel: () => records.cancel(),
    });
    return new Response([204, 205, 304].includes(status) ? null : content, { status, headers });
  }

  /** Not from the app. A refusal of the gateway's is passed on without its text; nothing else is believed. */
  function unsealed(answer) {
    if (answer.status === 410) {
      reload();
      return new Promise(() => {});
    }
    // 409: the network sent our request twice. Whoever sent it may send it anew.
    if (answer.status < 400 || answer.status === 409) throw new TypeError("the answer isn't sealed");
    const word = answer.headers.get("X-Htagweb");
    return new Response("", { status: answer.status, headers: word ? { "X-Htagweb": word } : {} });
  }

  async function fetch(...args) {
    const url = ours(args[0] instanceof Request ? args[0].url : args[0]);
    return url ? sealedFetch(new Request(...args), url) : clearFetch.apply(window, args);
  }

  // ---------------------------------------------------------------- WebSocket

  class SealedSocket extends EventTarget {
    #socket; #channel = new Channel(SOCKET);
    #state = 0; #url; #protocol = "";
    #outward = Promise.resolve(); #inward = Promise.resolve(); // sealing and opening take time; the order stays
    #waiting = 0; // bytes that wait to be sealed
    binaryType = "blob";

    constructor(address, protocols = []) {
      const url = ours(String(address).replace(/^ws/i, "http"));
      if (!url) return new ClearSocket(address, protocols);
      super();
      url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
      this.#url = url.href;
      const socket = new ClearSocket(`${url.protocol}//${location.host}${WAY}`);
      socket.binaryType = "arraybuffer";
      const begun = this.#channel.begin({ ...target(url), protocols: [protocols].flat() });
      socket.onopen = () => { this.#outward = begun.then((first) => this.#put(first)); };
      socket.onmessage = ({ data }) => { this.#inward = this.#inward.then(() => this.#received(data)); };
      socket.onclose = (event) => { this.#inward = this.#inward.then(() => this.#closed(event)); };
      this.#socket = socket;
    }

    #put(record) { if (this.#socket.readyState === 1) this.#socket.send(record); }

    async #received(data) {
      if (this.#state === 3) return;
      let kind, bytes;
      try {
        [kind, bytes] = await this.#channel.open(data); // a text, which isn't sealed, makes this throw too
      } catch {
        this.#socket.onmessage = this.#socket.onclose = null;
        this.#socket.close(BROKEN);
        return this.#closed({ code: BROKEN });
      }
      if (kind === HEAD) {
        if (this.#state) return;
        this.#protocol = JSON.parse(decoder.decode(bytes)).protocol;
        this.#state = 1;
        this.dispatchEvent(new Event("open"));
        return;
      }
      const said = kind === TEXT ? decoder.decode(bytes) : this.binaryType === "blob" ? new Blob([bytes]) : bytes.slice().buffer;
      this.dispatchEvent(new MessageEvent("message", { data: said, origin: new URL(this.#url).origin }));
    }

    #closed({ code, reason = "", wasClean = false }) {
      if (this.#state === 3) return;
      this.#state = 3;
      if (code === GONE) return reload();
      if (code === BROKEN || code === DENIED) [code, wasClean] = [1006, false];
      if (!wasClean) this.dispatchEvent(new Event("error"));
      this.dispatchEvent(new CloseEvent("close", { code, reason, wasClean }));
    }

    send(data) {
      if (this.#state === 0) throw new DOMException("Still in CONNECTING state", "InvalidStateError");
      const text = !(data instanceof Blob || data instanceof ArrayBuffer || ArrayBuffer.isView(data));
      // A copy: the page may reuse its buffer.
      const kept = text ? utf8(String(data)) : data instanceof Blob ? data
        : new Uint8Array(data.buffer ?? data, data.byteOffset ?? 0, data.byteLength).slice();
      const size = kept.size ?? kept.length;
      this.#waiting += size;
      if (this.#state > 1) return; // as a native one does: counted, and never sent
      this.#outward = this.#outward.then(async () => {
        const bytes = kept instanceof Blob ? new Uint8Array(await kept.arrayBuffer()) : kept;
        this.#put(await this.#channel.seal(text ? TEXT : BYTES, bytes));
        this.#waiting -= size;
      });
    }

    close(code, reason = "") {
      if (code !== undefined && code !== 1000 && !(code >= 3000 && code <= 4999)) {
        throw new DOMException("The close code must be 1000, or between 3000 and 4999", "InvalidAccessError");
      }
      if (utf8(reason).length > 123) throw new DOMException("The close reason is too long", "SyntaxError");
      if (this.#state > 1) return;
      const close = () => (code === undefined ? this.#socket.close() : this.#socket.close(code, reason));
      if (this.#state) this.#outward = this.#outward.then(close);
      else close();
      this.#state = 2;
    }

    get readyState() { return this.#state; }
    get url() { return this.#url; }
    get protocol() { return this.#protocol; }
    get extensions() { return ""; }
    get bufferedAmount() { return this.#waiting + this.#socket.bufferedAmount; }
  }

  // ---------------------------------------------------------------- EventSource

  class SealedSource extends EventTarget {
    #source = null; #state = 0; #url; #target; #timer = 0; #lastId = ""; #retry_ms = RETRY_MS;
    withCredentials = false;

    constructor(address, options) {
      const url = ours(address);
      if (!url) return new ClearSource(address, options);
      super();
      this.#url = url.href;
      this.#target = target(url);
      this.#connect();
    }

    async #connect() {
      const channel = new Channel(STREAM);
      const headers = [["accept", "text/event-stream"], ...(this.#lastId ? [["last-event-id", this.#lastId]] : [])];
      const first = await channel.begin({ ...this.#target, headers });
      if (this.#state === 2) return;
      const query = btoa(String.fromCharCode(...first)).replaceAll("+", "-").replaceAll("/", "_").replace(/=+$/, "");
      const source = new ClearSource(`${WAY}?${query}`);
      this.#source = source;
      let inward = Promise.resolve();
      const parse = this.#parser(), text = new TextDecoder();
      source.onmessage = ({ data }) => {
        inward = inward.then(async () => {
          if (this.#source !== source) return;
          const [kind, bytes] = await channel.open(Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0)));
          if (kind === HEAD) this.#opened(JSON.parse(decoder.decode(bytes)));
          else parse(text.decode(bytes, { stream: true }));
        }).catch(() => this.#broke(source));
      };
      source.addEventListener("gone", reload);
      // The browser would ask again with the same words, which are good for once: it is for us to ask anew.
      source.onerror = () => { inward = inward.then(() => this.#broke(source)); };
    }

    #opened({ status, headers }) {
      const type = headers.find(([field]) => field === "content-type")?.[1] ?? "";
      if (status !== 200 || !type.startsWith("text/event-stream")) return this.#fail();
      this.#state = 1;
      this.dispatchEvent(new Event("open"));
    }

    #broke(source) {
      if (this.#source !== source || this.#state === 2) return;
      source.close();
      this.#source = null;
      this.#state = 0;
      this.#timer = setTimeout(() => this.#connect(), this.#retry_ms);
      this.dispatchEvent(new Event("error"));
    }

    #fail() {
      this.close();
      this.dispatchEvent(new Event("error"));
    }

    /** A function that takes the app's stream in pieces. HTML Standard 9.2.6. */
    #parser() {
      let rest = "", data = [], type = "";
      const line = (text) => {
        if (!text) {
          if (data.length) {
            const facts = { data: data.join("\n"), lastEventId: this.#lastId, origin: location.origin };
            this.dispatchEvent(new MessageEvent(type || "message", facts));
          }
          [data, type] = [[], ""];
          return;
        }
        const [, field, value] = /^([^:]*)(?:: ?)?(.*)$/s.exec(text);
        if (field === "data") data.push(value);
        else if (field === "event") type = value;
        else if (field === "id" && !value.includes("\0")) this.#lastId = value;
        else if (field === "retry" && /^\d+$/.test(value)) this.#retry_ms = Number(value);
      };
      return (piece) => {
        const lines = (rest + piece).split(/\r\n|\n|\r(?!$)/); // a CR at the end may be half of a CR LF
        rest = lines.pop();
        for (const each of lines) if (this.#state === 1) line(each);
      };
    }

    close() {
      clearTimeout(this.#timer);
      this.#state = 2;
      this.#source?.close();
      this.#source = null;
    }

    get readyState() { return this.#state; }
    get url() { return this.#url; }
  }

  // ---------------------------------------------------------------- in place of the browser's own

  function install() {
    ["CONNECTING", "OPEN", "CLOSING", "CLOSED"].forEach((state, value) => {
      for (const at of [SealedSocket, SealedSocket.prototype]) Object.defineProperty(at, state, { value, enumerable: true });
    });
    ["CONNECTING", "OPEN", "CLOSED"].forEach((state, value) => {
      for (const at of [SealedSource, SealedSource.prototype]) Object.defineProperty(at, state, { value, enumerable: true });
    });
    handlers(SealedSocket, "open", "message", "error", "close");
    handlers(SealedSource, "open", "message", "error");
    Object.defineProperty(SealedSocket, "name", { value: "WebSocket" });
    Object.defineProperty(SealedSource, "name", { value: "EventSource" });
    Object.assign(window, { fetch, WebSocket: SealedSocket, EventSource: SealedSource });
    // What has no sealed form here must not go out in the clear instead.
    const open = XMLHttpRequest.prototype.open;
    XMLHttpRequest.prototype.open = function (method, address, ...rest) {
      if (ours(address)) throw new DOMException("parano is on: use fetch for what goes to the app", "SecurityError");
      return open.call(this, method, address, ...rest);
    };
    const beacon = navigator.sendBeacon;
    navigator.sendBeacon = (address, ...rest) => !ours(address) && beacon.call(navigator, address, ...rest);
  }

  function tell(title, text, again) {
    clearTimeout(slow);
    const place = document.querySelector("main > div");
    const put = (tag, facts) => place.append(Object.assign(document.createElement(tag), facts));
    place.setAttribute("role", "alert");
    place.replaceChildren();
    put("h1", { textContent: title });
    put("p", { textContent: text, className: "lead" });
    if (again) put("button", { textContent: "Try again", onclick: () => location.reload() });
  }

  const slow = setTimeout(() => document.querySelector("main > div").append("Opening…"), SLOW_MS);
  try {
    if (!window.isSecureContext || !window.crypto?.subtle) {
      return tell("This app needs a secure address", "Everything between your browser and this app is to be encrypted, and browsers "
        + "do that only for pages that come by https, or from localhost. This one came by plain http, so nothing was sent. "
        + "Ask whoever runs this server for its https address.");
    }
    await agree();
    const answer = await patiently(() => fetch(BASE + location.search, { headers: { Accept: "text/html" } }));
    const page = await answer.text();
    if (!page) throw new Error(`the page came with status ${answer.status}`);
    if (document.readyState !== "complete") await new Promise((loaded) => window.addEventListener("load", loaded, { once: true }));
    clearTimeout(slow);
    install();
    // Written, not navigated to: a navigation would lose all of this. What the page's scripts expect of a page that loads
    // (document.write, DOMContentLoaded, load) happens as ever.
    document.open();
    document.write(page);
    document.close();
  } catch (problem) {
    console.warn("htagweb:", problem);
    tell("The app could not be reached safely", "The key that protects what you see and do here could not be agreed on, or the "
      + "connection broke meanwhile.", true);
  }
})();
