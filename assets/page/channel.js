// @ts-check
// Runs before anything else of the page. A browser has six connections to a host, for all its tabs together; gradio's
// page would hold one for as long as it is open, and one more while anything runs. So only a few tabs may hold one, for
// what runs; the others ask every moment for what is new, and none holds one for its heartbeat. The other half is
// dspark_core/playground/channel.py.
//
// The server ends a stream with the last event that runs, and gradio's page opens another for the next event, unless it
// still believes the last one open: then that event is never heard of. So what it asks for is not answered before it
// has heard the end of a stream that is over by then.

const HEARTBEAT = '/gradio_api/heartbeat/', EVENTS = '/gradio_api/queue/data', JOIN = '/gradio_api/queue/join';
const MAX_HELD = 3;
const HEARTBEAT_MS = 45_000, HIDDEN_MS = 1000, SLOWEST_MS = 400, FASTEST_MS = 60;
const HANDED_ON_MS = 20;  // in which the page takes in what its script has been handed

const fetched = window.fetch.bind(window);
/** @param {number} ms */
const pause = (ms) => new Promise((resolve) => { setTimeout(resolve, ms); });

const newName = () => Math.random().toString(36).slice(2);

/** The stream of events that was held last; `ended` once the page has all of it.
 * @type {{ name: string, ended: Promise<void> }?} */
let last = null;

/** @type {Set<() => Promise<void>>} of every polled stream of events: ask now; resolves once the page has the answer */
const asking = new Set();

/**
 * Take one of the connections that may be held. Resolves to what gives it back, or to null if there is none left. The
 * browser itself gives back those of a tab that was closed.
 * @returns {Promise<(() => void)?>}
 */
async function connection() {
  for (let k = 0; navigator.locks && k < MAX_HELD; k++) {
    const free = await new Promise((resolve) => {
      navigator.locks.request('dspark-connection-' + k, { ifAvailable: true },
        (lock) => lock ? new Promise((done) => { resolve(done); }) : resolve(null));
    });
    if (free) return free;
  }
  return null;
}

/**
 * The same answer, which gives back its connection at its end.
 * @param {Response} response
 * @param {() => void} free
 */
function held(response, free) {
  const { readable, writable } = new TransformStream();
  if (response.body) response.body.pipeTo(writable).catch(() => {}).finally(free);
  else free();
  return new Response(readable, response);
}

/**
 * The answer to a request for a stream, put together from many short ones.
 * @param {string} url
 * @param {AbortSignal?} signal
 * @param {number} [every]  ms from one to the next; else as fast as there is something new
 */
function polled(url, signal, every) {
  const name = newName();
  /** @param {string} [wish] */
  const ask = (wish = '') => fetched(url, { headers: { 'x-stream': name + wish }, keepalive: Boolean(wish) });
  const leave = () => { ask(' leave').catch(() => {}); };
  let ms = FASTEST_MS, first = true, hurry = () => {};
  /** @type {(() => void)[]} */
  let waiting = [];
  const now = () => /** @type {Promise<void>} */ (new Promise((resolve) => {
    waiting.push(resolve);
    hurry();
  }));
  /** @param {(() => void)[]} heard */
  const answered = (heard) => { setTimeout(() => heard.forEach((resolve) => resolve()), HANDED_ON_MS); };
  function over() {
    removeEventListener('pagehide', leave);
    asking.delete(now);
    answered(waiting);
  }
  if (!every) asking.add(now);
  /** @param {ReadableStreamDefaultController} controller */
  async function pull(controller) {
    for (;;) {
      if (!first && !waiting.length) {
        const called = new Promise((resolve) => { hurry = () => resolve(null); });
        await Promise.race([called, pause(every ?? (document.hidden ? HIDDEN_MS : ms))]);
      }
      first = false;
      if (signal?.aborted) return;
      const heard = waiting;
      waiting = [];
      const answer = await ask().catch((error) => { over(); answered(heard); throw error; });
      const data = new Uint8Array(await answer.arrayBuffer());
      answered(heard);
      if (!answer.ok) {
        over();
        throw new TypeError('The page’s server answers with ' + answer.status + '.');
      }
      ms = data.length ? FASTEST_MS : Math.min(1.5 * ms, SLOWEST_MS);
      if (data.length && !signal?.aborted) controller.enqueue(data);
      if (answer.headers.has('x-stream-over')) {
        over();
        return controller.close();
      }
      if (data.length) return;
    }
  }
  const body = new ReadableStream({
    start(controller) {
      signal?.addEventListener('abort', () => {
        over();
        leave();
        controller.error(signal.reason);
      });
    },
    pull,
  });
  addEventListener('pagehide', leave);
  return new Response(body, { headers: { 'content-type': 'text/event-stream' } });
}

/**
 * A request that says which stream it is about, if it is about one.
 * @param {RequestInfo | URL} input
 * @param {RequestInit} [init]
 * @param {string} [stream]
 */
function named(input, init, stream) {
  const request = new Request(input, init);
  if (stream) request.headers.set('x-stream', stream);
  return request;
}

window.fetch = async (input, init) => {
  const url = input instanceof Request ? input.url : String(input);
  const { pathname } = new URL(url, location.href);
  const signal = init?.signal ?? (input instanceof Request ? input.signal : null);
  if (pathname.startsWith(HEARTBEAT)) return polled(url, signal, HEARTBEAT_MS);
  if (pathname === JOIN) {
    const before = last, answer = await fetched(named(input, init, before?.name));
    await Promise.all([
      before && answer.headers.has('x-stream-over') && before.ended,  // however late its end comes
      ...[...asking].map((now) => now()),
    ]);
    await pause(HANDED_ON_MS);
    return answer;
  }
  if (pathname !== EVENTS) return fetched(input, init);
  const free = await connection();
  if (!free) return polled(url, signal);
  const name = newName();
  let over = free;
  last = { name, ended: new Promise((resolve) => { over = () => { free(); resolve(); }; }) };
  try {
    return held(await fetched(named(input, init, name + ' held')), over);
  } catch (error) {
    over();
    throw error;
  }
};
