// What gradio hands each script of the page, as arguments of the function whose body the script is.

/** The script's own part of the page. */
declare const element: HTMLElement;

/** What the server has set: the part's value, and what else it was made with. */
declare const props: { readonly value: string | null; readonly max_bytes?: number };

/** Call `changed` whenever the value has changed. */
declare function watch(name: 'value', changed: () => void): void;

/** Tell the server of an event of this part. */
declare function trigger(event: string, data?: object): void;

interface Window {
  Plotly?: {
    toImage(figure: object, options: object): Promise<string>;
    relayout(plot: unknown, changes: object): void;
    newPlot(place: string, data: unknown, layout: unknown, options: object): void;
  };
}

/**
 * A round of the board that is to be looked at closer: see `open` in inspector.js; and one that was, with what was found.
 */
interface DocumentEventMap {
  'round-shown': CustomEvent<{ lane: number; at: number; round: import('./slots.js').Inspection }>;
  'round-picked': CustomEvent<{ lane: number; at: number; quiet?: boolean; from?: HTMLElement }>;
}
