"""DSpark Playground: `python app.py` opens the page on this machine."""

import argparse


def main() -> None:
    parser = argparse.ArgumentParser(description="Race plain MLX decoding, DSpark and DFlash on one prompt.")
    parser.add_argument("--port", type=int, help="port on 127.0.0.1 (default: the first free one from 7860)")
    parser.add_argument("--no-browser", action="store_true", help="do not open a browser window")
    args = parser.parse_args()

    from dspark_core.playground.engine import PresetEngine
    from dspark_core.playground.page import build
    from dspark_core.playground.selection import Shelf
    from dspark_core.playground.serve import launch
    from dspark_core.playground.worker import Worker
    from dspark_core.presets import load_prompts

    shelf = Shelf()
    if not shelf.presets:
        parser.exit(1, f"No preset can be used: {' '.join(shelf.bad)}\n")
    preset = next(iter(shelf.presets.values()))
    worker = Worker(lambda progress: PresetEngine(preset, "auto", progress))
    launch(
        build(worker, load_prompts(), shelf),
        args.port,
        browser=not args.no_browser,
        ready=lambda url: print(f"DSpark Playground runs on {url} (Ctrl+C ends it).", flush=True),
    )


if __name__ == "__main__":
    main()
