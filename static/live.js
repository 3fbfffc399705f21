/* Keeps an open page true to the database, without any code in the page.

   What a page says in its attributes:
     <body data-live-topics="runs,usage">      the topics to listen to (docs: ziggie/live.py); none, no socket
     data-live-connection                      element whose text (and data-state) tells whether the page is live
     data-live-list="run"                      a list of rows of this kind, newest first; with it
       data-live-row-url="/runs/{id}/row/"       where one row is rendered, as the element that stands in the list
       data-live-limit="30"                      how many rows it keeps (30); pages with a query string get no new rows
     data-live-id="run:UUID"                   an element that shows this object, in a list or alone; with it
       data-live-version="3"                     the version that it shows: older events are ignored
       data-live-row-url="/runs/UUID/body/"      alone: where its content is rendered
     data-live-field="status"                  inside of it: filled at once from the event, before the server is asked;
                                               <progress> gets the value, .chip also the value as a class,
                                               data-live-format="words" (a_b -> a b) or "fixed" (one decimal)
     data-live-refresh-url="/figures/"         a region whose content is rendered there, asked for after each
       data-live-refresh-on="usage,providers"    event of these topics, once a second at most
     data-live-empty                           shown while its list is empty: removed with the first row

   The server's HTML is the truth. An event only says what to ask for again; values from events are set as
   text. After a connection, a gap, a return to the page and every 30 s the page itself is fetched and its live
   parts are exchanged where they differ. Every event is also dispatched on document as "live:event". */

(() => {
  "use strict";
  const POLL_MS = 30_000, PING_MS = 25_000, PONG_MS = 10_000, HIDDEN_MS = 60_000;
  const ROW_MS = 150, REFRESH_MS = 1_000, STABLE_MS = 5_000, FETCH_MS = 15_000;
  const BACKOFF_MS = [500, 30_000], MAX_SEEN = 1_000, DEFAULT_LIMIT = 30;
  const WORDS = {
    connecting: "Connecting…", live: "Live", offline: "Not live: reconnecting…", paused: "Paused",
    "signed-out": "Signed out: log in again", refused: "Live updates are refused",
  };
  const FINAL_CODES = { 4401: "signed-out", 4403: "refused" };

  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const words = (text) => (text || "").split(/[\s,]+/).filter(Boolean);
  const topics = new Set(all("[data-live-topics]").flatMap((element) => words(element.dataset.liveTopics)));
  if (!topics.size) return;

  const seen = new Map(); // object -> newest version that an event named
  let socket = null, failures = 0, over = null, lastSync = Date.now();
  const timers = {};
  const later = (name, work, ms) => { clearTimeout(timers[name]); timers[name] = setTimeout(work, ms); };

  const show = (state) => {
    for (const element of all("[data-live-connection]")) {
      if (element.dataset.state === state) continue;
      element.dataset.state = state;
      element.textContent = WORDS[state];
    }
  };
  const finish = (state) => { over = state; show(state); socket?.close(); };

  // --- asking the server -------------------------------------------------------------------------

  const fetchHtml = async (url) => {
    const response = await fetch(url, {
      credentials: "same-origin", cache: "no-store", headers: { "X-Requested-With": "live" },
      signal: AbortSignal.timeout(FETCH_MS),
    });
    if (response.status === 401 || (response.redirected && new URL(response.url).pathname !== new URL(url, location).pathname)) {
      finish("signed-out");
      return null;
    }
    return response.ok ? response.text() : null;
  };
  const fragment = (html) => {
    const template = document.createElement("template");
    template.innerHTML = html.trim();
    return template.content;
  };

  /* Runs work(key) at once, and again after a pause if it was asked for meanwhile: never two at a time. */
  const paced = (work, pauseMs) => {
    const busy = new Map();
    return async function run(key) {
      if (busy.has(key)) { busy.set(key, true); return; }
      busy.set(key, false);
      try { await work(key); } catch { /* the next poll sees to it */ }
      setTimeout(() => { const again = busy.get(key); busy.delete(key); if (again) run(key); }, pauseMs);
    };
  };

  /* What is new in a rendering each time although nothing changed is no difference. */
  const content = (element) => element.innerHTML.replace(/ class="changed"|name="csrfmiddlewaretoken" value="[^"]*"/g, "");

  /* Exchanges the children of `element`, unless somebody types there; keeps the focus where it was. */
  const swap = (element, nodes) => {
    const active = element.contains(document.activeElement) ? document.activeElement : null;
    if (active?.matches("input, select, textarea")) return false;
    const place = active ? all(active.tagName, element).indexOf(active) : -1;
    element.replaceChildren(...nodes);
    if (place >= 0) all(active.tagName, element)[place]?.focus({ preventScroll: true });
    return true;
  };

  // --- objects and lists -------------------------------------------------------------------------

  const shown = (object) => all(`[data-live-id="${CSS.escape(object)}"]`);
  const version = (element) => Number(element.dataset.liveVersion || 0);
  const idOf = (object) => object.slice(object.indexOf(":") + 1);
  const rowUrl = (list, object) => list.dataset.liveRowUrl?.replace("{id}", encodeURIComponent(idOf(object)));

  const patch = (element, event) => {
    for (const field of all("[data-live-field]", element)) {
      let value = event.data[field.dataset.liveField];
      if (value === undefined) continue;
      if (field.matches("progress, meter")) { field.value = Number(value) || 0; continue; }
      if (field.matches(".chip")) field.className = `chip ${words(String(value ?? "")).join("-")}`;
      if (field.dataset.liveFormat === "fixed" && value !== null) value = Number(value).toFixed(1);
      if (field.dataset.liveFormat === "words") value = String(value ?? "").replaceAll("_", " ");
      field.textContent = value ?? "";
    }
    element.dataset.liveVersion = event.version;
  };

  const insert = (list, row, object) => {
    const before = [...list.children].find((other) => idOf(other.dataset.liveId || "") < idOf(object));
    list.insertBefore(row, before || null);
    all("[data-live-empty]", list.closest("section, main") || document).forEach((note) => note.remove());
    const limit = Number(list.dataset.liveLimit || DEFAULT_LIMIT);
    while (list.children.length > limit) list.lastElementChild.remove();
  };

  const updateRow = async (list, object) => {
    const html = await fetchHtml(rowUrl(list, object));
    const fresh = html && fragment(html).firstElementChild;
    if (!fresh) return;
    const row = [...list.children].find((other) => other.dataset.liveId === object);
    if (row && version(row) > version(fresh)) return;
    fresh.classList.add("changed");
    if (!row) insert(list, fresh, object);
    else if (!row.contains(document.activeElement)) row.replaceWith(fresh);
    else if (swap(row, fresh.childNodes)) row.dataset.liveVersion = fresh.dataset.liveVersion;
  };

  const updateAlone = async (element) => {
    const wanted = seen.get(element.dataset.liveId) ?? version(element);
    const html = await fetchHtml(element.dataset.liveRowUrl);
    if (html !== null && swap(element, fragment(html).childNodes)) element.dataset.liveVersion = wanted;
  };

  const update = paced(async (object) => {
    const kind = object.slice(0, object.indexOf(":"));
    const lists = all(`[data-live-list="${CSS.escape(kind)}"][data-live-row-url]`).filter(
      (list) => !location.search || all(`[data-live-id="${CSS.escape(object)}"]`, list).length);
    const alone = shown(object).filter((element) => element.dataset.liveRowUrl);
    await Promise.all([...lists.map((list) => updateRow(list, object)), ...alone.map(updateAlone)]);
  }, ROW_MS);

  const refresh = paced(async (url) => {
    const html = await fetchHtml(url);
    if (html === null) return;
    for (const region of all(`[data-live-refresh-url="${CSS.escape(url)}"]`)) swap(region, fragment(html).childNodes);
  }, REFRESH_MS);

  const receive = (event) => {
    if (event.type === "pong") return;
    if (event.type === "live.gap") { resync("page"); return; }
    document.dispatchEvent(new CustomEvent("live:event", { detail: event }));
    for (const region of all("[data-live-refresh-url]")) {
      if (words(region.dataset.liveRefreshOn).includes(event.topic)) refresh(region.dataset.liveRefreshUrl);
    }
    if (event.version < (seen.get(event.object) ?? 0)) return;
    seen.delete(event.object);
    seen.set(event.object, event.version);
    if (seen.size > MAX_SEEN) seen.delete(seen.keys().next().value);
    const elements = shown(event.object);
    if (elements.some((element) => version(element) > event.version)) return;
    if (event.data) elements.forEach((element) => patch(element, event));
    update(event.object);
  };

  // --- the whole page ----------------------------------------------------------------------------

  const REGIONS = ["[data-live-list]", "[data-live-refresh-url]", "[data-live-id][data-live-row-url]"];

  const resync = paced(async () => {
    lastSync = Date.now();
    const html = await fetchHtml(location.href);
    if (html === null) return;
    const page = new DOMParser().parseFromString(html, "text/html");
    for (const selector of REGIONS) {
      const here = all(selector), there = all(selector, page);
      if (here.length !== there.length) continue;
      here.forEach((region, index) => {
        const fresh = there[index];
        if (content(region) === content(fresh) || region.dataset.liveId !== fresh.dataset.liveId) return;
        if (!swap(region, fresh.childNodes)) return;
        if (fresh.dataset.liveVersion) region.dataset.liveVersion = fresh.dataset.liveVersion;
      });
    }
    if (!all("[data-live-empty]", page).length) all("[data-live-empty]").forEach((note) => note.remove());
    // An event may have overtaken the page that was on its way.
    for (const element of all("[data-live-id]")) {
      if ((seen.get(element.dataset.liveId) ?? 0) > version(element)) update(element.dataset.liveId);
    }
  }, REFRESH_MS);

  // --- the socket --------------------------------------------------------------------------------

  const connect = () => {
    clearTimeout(timers.connect);
    if (socket || over || document.hidden) return;
    if (!failures) show("connecting");
    const url = new URL("/ws/live/", location.href);
    url.protocol = location.protocol === "https:" ? "wss:" : "ws:";
    url.searchParams.set("topics", [...topics].join(","));
    const mine = socket = new WebSocket(url);
    mine.onopen = () => {
      show("live");
      later("stable", () => { failures = 0; }, STABLE_MS);
      later("ping", ping, PING_MS);
      resync("page");
    };
    mine.onmessage = (message) => {
      clearTimeout(timers.pong);
      receive(JSON.parse(message.data));
    };
    mine.onclose = ({ code }) => {
      if (socket !== mine) return;
      socket = null;
      for (const name of ["stable", "ping", "pong"]) clearTimeout(timers[name]);
      if (over) return;
      if (FINAL_CODES[code]) { finish(FINAL_CODES[code]); return; }
      if (document.hidden) { show("paused"); return; }
      show("offline");
      const [first, longest] = BACKOFF_MS;
      const pause = code === 4429 ? longest : Math.min(longest, first * 2 ** Math.min(failures++, 10));
      later("connect", connect, pause * (0.5 + Math.random() / 2));
    };
  };

  /* A connection that was cut without a word looks open; only an answer shows that it is. */
  const ping = () => {
    if (socket?.readyState !== WebSocket.OPEN) return;
    socket.send('{"type": "ping"}');
    const silent = socket;
    later("pong", () => { if (socket === silent) { silent.close(); silent.onclose({ code: 1006 }); } }, PONG_MS);
    later("ping", ping, PING_MS);
  };

  const poll = () => {
    later("poll", poll, POLL_MS * (0.8 + 0.4 * Math.random()));
    if (!document.hidden && over !== "signed-out") resync("page");
  };

  document.addEventListener("visibilitychange", () => {
    if (document.hidden) { later("hidden", () => socket?.close(), HIDDEN_MS); return; }
    clearTimeout(timers.hidden);
    if (over) return;
    if (!socket) connect();
    else if (Date.now() - lastSync > POLL_MS) resync("page");
  });
  window.addEventListener("online", () => { failures = 0; connect(); });
  window.addEventListener("pagehide", () => { if (socket) { socket.onclose = null; socket.close(); socket = null; } });
  window.addEventListener("pageshow", (event) => { if (event.persisted) connect(); });

  connect();
  later("poll", poll, POLL_MS);
})();
