// The browser's half of generation1.py. htag 1's own page script (action, jevent, _error) calls interact() and start().
// Messages are numbered and kept until the sandbox says that they are done, so a connection may break at any time:
// what was under way is sent again, and the sandbox knows what it has seen. A WebSocket carries both directions; while
// there is none, messages go by POST and the app's updates come by an event stream.
async function interact(o) { htagweb.interact(o); }

var htagweb = (function () {
    const INSTANCE = "<<instance>>";
    const PAGE = Array.from(crypto.getRandomValues(new Uint8Array(8)), b => b.toString(16).padStart(2, "0")).join("");
    const BASE = <<base>> || (location.pathname.endsWith("/") ? location.pathname : location.pathname + "/");
    let sockets = <<sockets>>;  // may this page open WebSockets?
    const FIRST_DELAY = 250, LAST_DELAY = 15000, WS_PATIENCE = 3000;
    // A class of our own gets the browser's real WebSocket: the platform's script mends others by itself, and then we
    // would not know what has to be sent again.
    const Socket = class extends WebSocket {};

    const pending = [];      // messages not done yet, oldest first
    let number = 0;          // of the last message
    let got = 0;             // number of the last frame received
    let socket = null;       // while it is open
    let stream = null;       // the event stream that stands in for it
    let trying = true;       // the first WebSocket may still open: don't fall back to POST before it had its chance
    let posting = false;
    let attempt = 0;         // the timer of the next WebSocket; 0 while one is being opened, or is open
    let socketDelay = FIRST_DELAY, postDelay = FIRST_DELAY;

    function receive(frame) {
        if (frame.reload) { pending.length = 0; location.reload(); return; }
        if (frame.s <= got) return;  // came by both ways
        got = frame.s;
        while (pending.length && pending[0].n <= frame.done) pending.shift();
        try { action(JSON.stringify(frame.actions)); } catch (problem) { console.error(problem); }
    }

    function here() { return "?instance=" + INSTANCE + "&page=" + PAGE + "&got=" + got; }

    function text(message) { return JSON.stringify({n: message.n, got: got, o: message.o}); }

    function later(delay, what) { return setTimeout(what, delay * (0.75 + Math.random() / 2)); }

    // The platform's script shows that the connection is lost, and wakes us when the server answers it again.
    function report(state) { document.dispatchEvent(new Event("htagweb:" + state)); }

    document.addEventListener("htagweb:wake", () => {
        if (!attempt) return;
        clearTimeout(attempt);
        connect();
        post();
    });

    function connect() {
        attempt = 0;
        if (!sockets) {
            trying = false;
            listen();
            post();
            return;
        }
        const scheme = location.protocol === "https:" ? "wss://" : "ws://";
        let ws;
        try {
            ws = new Socket(scheme + location.host + BASE + "_ws" + here());
        } catch (problem) {  // forbidden by a policy of the app's own: trying again is no use
            sockets = false;
            connect();
            return;
        }
        const patience = setTimeout(() => ws.close(), WS_PATIENCE);
        ws.onopen = () => {
            clearTimeout(patience);
            socket = ws;
            socketDelay = FIRST_DELAY;
            report("up");
            deafen();
            pending.forEach(message => ws.send(text(message)));
        };
        ws.onmessage = event => receive(JSON.parse(event.data));
        ws.onclose = () => {
            clearTimeout(patience);
            trying = false;
            socket = null;
            if (!listening()) report("down");
            listen();
            post();
            connectLater();
        };
    }

    function connectLater() {
        attempt = later(socketDelay, connect);
        socketDelay = Math.min(2 * socketDelay, LAST_DELAY);
    }

    function listen() {
        if (stream) return;
        stream = new EventSource(BASE + "_stream" + here());
        stream.onmessage = event => receive(JSON.parse(event.data));
        stream.onopen = () => {
            report("up");
            if (!sockets) socketDelay = FIRST_DELAY;
        };
        stream.onerror = () => {  // opened again when the next WebSocket fails
            deafen();
            if (!socket) report("down");
            if (!sockets && !attempt) connectLater();
        };
    }

    function listening() { return stream && stream.readyState === EventSource.OPEN; }

    function deafen() {
        if (stream) stream.close();
        stream = null;
    }

    // One at a time, in order; goes on until nothing is pending, or a WebSocket is open.
    async function post() {
        if (posting || trying || socket || !pending.length) return;
        posting = true;
        try {
            while (pending.length && !socket) {
                const first = pending[0];
                const answer = await fetch(BASE + "_post", {
                    method: "POST",
                    headers: {"content-type": "application/json"},
                    body: JSON.stringify({instance: INSTANCE, page: PAGE, n: first.n, got: got, o: first.o}),
                });
                const said = await answer.json();
                if (said.reload) return receive(said);
                if (!answer.ok || !said.frames) throw new Error("no answer from the app: " + answer.status);
                said.frames.forEach(receive);
                if (pending[0] === first) throw new Error("the app did not take the message");
                postDelay = FIRST_DELAY;
            }
        } catch (problem) {
            console.warn("htagweb:", problem);
            if (!socket) report("down");
            later(postDelay, post);
            postDelay = Math.min(2 * postDelay, LAST_DELAY);
        } finally {
            posting = false;
        }
    }

    function tell(problem) {
        if (problem === null) return;
        const box = document.createElement("div");
        box.setAttribute("role", "alert");
        box.style.cssText = "position:fixed;inset:auto 1em 1em 1em;z-index:2147483000;padding:1em;max-height:50vh;overflow:auto;"
            + "background:#fff4f4;color:#7a1010;border:1px solid #c33;border-radius:6px;font:14px system-ui,sans-serif;white-space:pre-wrap";
        const close = document.createElement("button");
        close.textContent = "Close";
        close.style.cssText = "float:right;margin-left:1em";
        close.onclick = () => box.remove();
        box.append(close, "Something went wrong in this app: " + String(problem).replace(/^PYTHON ERROR: /, ""));
        document.documentElement.append(box);  // not in the body: htag replaces that
    }
    if (!window.error) window.error = tell;

    function begin() { connect(); start(); }
    if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", begin); else begin();

    return {
        interact(o) {
            const message = {n: ++number, o: o};
            pending.push(message);
            if (socket) socket.send(text(message)); else post();
        },
    };
})();
