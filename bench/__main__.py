"""The command line: `python -m bench`. Chooses what to measure, then hands the figures to table, JSON and plots."""

from __future__ import annotations

import argparse
import json
import signal
import sys
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

if sys.platform != "linux":
    sys.exit("The bench runs on Linux only: it reads /proc and drives epoll.")

from rich.console import Console

from bench import load, machine, plot, startup, table, uml
from bench.figures import BEFORE
from bench.measures import MEASURES, Measure
from bench.peers import PEERS, Peer, before
from bench.rounds import Run

LANES = {"tcp-unix": "unix", "tcp-tcp": "tcp", "tcp-vsock": "vsock"}  # and the upstream of each
SHOWN = {"unix": "a Unix socket", "tcp": "TCP", "vsock": "AF_VSOCK"}
SECONDS, QUICK_SECONDS = 0.5, 0.15
STARTUP = "start-connect"
COLUMNS = {column.key: column for measure in MEASURES for column in measure.columns} | {
    STARTUP: startup.COLUMN
}

Lane = dict[str, Any]  # as in the JSON: columns (figures by column and subject), missing, not_found


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The options, with every name in them checked."""
    parser = argparse.ArgumentParser(
        prog="python -m bench", description="hvbridge measured beside its peers."
    )
    names = [peer.name for peer in PEERS]
    parser.add_argument(
        "--lane", default="tcp-unix", help=f"{', '.join(LANES)} or all; comma-separated (default: tcp-unix)"
    )
    parser.add_argument(
        "--peers", default=",".join(names), help="comma-separated (default: all that are found)"
    )
    parser.add_argument(
        "--before",
        metavar="PYTHON",
        help="measure another hvbridge too: the one that this interpreter has installed",
    )
    parser.add_argument("--columns", default="", help=f"comma-separated: {', '.join(COLUMNS)} (default: all)")
    parser.add_argument("--rounds", type=int, help="default: 5; at least 5 for figures to be quoted")
    parser.add_argument("--seconds", type=float, help=f"of each load run (default: {SECONDS})")
    parser.add_argument("--quick", action="store_true", help="a look in seconds: one short round, 1,000 idle")
    parser.add_argument("--no-pin", action="store_true", help="let the scheduler place everybody")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every sample of every round")
    parser.add_argument(
        "--markdown", type=Path, metavar="FILE", help="write the medians as a table for a page"
    )
    parser.add_argument("--plot", type=Path, metavar="DIR", help="write one SVG a lane")
    parser.add_argument(
        "--load-json", type=Path, metavar="FILE", help="show a written file instead of measuring"
    )
    args = parser.parse_args(argv)
    args.lane = list(LANES) if args.lane == "all" else args.lane.split(",")
    args.peers = args.peers.split(",")
    args.columns = args.columns.split(",") if args.columns else []
    args.rounds = args.rounds or (1 if args.quick else 5)
    args.seconds = args.seconds or (QUICK_SECONDS if args.quick else SECONDS)
    for option, known in (("lane", LANES), ("peers", names), ("columns", COLUMNS)):
        for name in getattr(args, option):
            if name not in known:
                parser.error(f"--{option}: there is no {name!r}; there is {', '.join(known)}")
    if args.before and before(args.before).find() is None:
        parser.error(f"--before: {args.before} is no program")
    return args


def chosen_peers(args: argparse.Namespace) -> list[Peer]:
    """Those that were asked for; `before` next to what it is compared with."""
    first, *others = PEERS
    peers = [peer for peer in (first, *others) if peer.name in args.peers]
    if args.before:
        peers.insert(peers.index(first) + 1 if first in peers else 0, before(args.before))
    return peers


def measured(subjects: Collection[str]) -> list[str]:
    """The names of the peers among ``subjects``, in the order in which they are shown."""
    first, *others = (peer.name for peer in PEERS)
    return [name for name in (first, BEFORE, *others) if name in subjects]


def chosen_measures(args: argparse.Namespace) -> list[Measure]:
    """Those that give a column which was asked for."""
    return [
        measure
        for measure in MEASURES
        if (not args.columns or any(column.key in args.columns for column in measure.columns))
        and not (args.quick and measure.idle > 1_000)
    ]


def measure_lane(name: str, args: argparse.Namespace, status: Console) -> Lane:
    """Run one lane here, or, for AF_VSOCK, inside its kernel."""
    if name == "tcp-vsock" and not uml.inside():
        again = ["--lane", name, "--peers", ",".join(args.peers), "--rounds", str(args.rounds)]
        again += [
            "--seconds",
            str(args.seconds),
            *(["--columns", ",".join(args.columns)] if args.columns else []),
            *(["--before", args.before] if args.before else []),
        ]
        status.print("running the lane inside a User-Mode Linux kernel (a minute or two)")
        lane: Lane = uml.run(again, load.build().parent.parent)
        return lane
    kind = LANES[name]
    peers: list[Peer] = []
    missing: dict[str, str] = {}
    for peer in chosen_peers(args):
        if kind not in peer.upstreams:
            missing[peer.name] = "cannot connect AF_VSOCK"
        elif peer.find() is None:
            missing[peer.name] = f"not found: {' or '.join(peer.programs)}"
        else:
            peers.append(peer)
    measures = chosen_measures(args)
    with status.status("") as line:
        run = Run(
            kind=kind,
            peers=peers,
            # Memory and start-up are the same whatever the upstream; an emulated kernel has time for neither.
            measures=[m for m in measures if not (m.idle and kind == "vsock")],
            rounds=args.rounds,
            seconds=args.seconds,
            binary=load.build(),
            placement=machine.placement(pinned=not args.no_pin),
            with_startup=(not args.columns or STARTUP in args.columns) and kind != "vsock",
            say=lambda text: line.update(f"{name}, {text}"),
        )
        samples = run()
    return {"columns": samples.columns, "missing": missing | samples.missing}


def show(result: dict[str, Any], console: Console) -> None:
    """Print the tables of every lane."""
    console.print(" · ".join(f"{key}: {value}" for key, value in result["machine"].items()))
    for name, lane in result["lanes"].items():
        columns = lane["columns"]
        loaded = [subjects for key, subjects in columns.items() if key != STARTUP]
        seen = {subject for subjects in loaded for subject in subjects}
        names = measured(seen)
        rounds = max((len(series) for subjects in loaded for series in subjects.values()), default=0)
        load_columns = [column for key, column in COLUMNS.items() if key != STARTUP]
        console.print()
        if names:
            console.print(
                table.figures(
                    f"TCP to {SHOWN[LANES[name]]}: medians of {rounds} round{'s' * (rounds > 1)}",
                    load_columns,
                    columns,
                    names,
                )
            )
        if columns.get(STARTUP):
            console.print(table.startup(startup.COLUMN, columns[STARTUP], startup.BARE_TRIO))
        if changes := table.changes(COLUMNS.values(), columns):
            console.print(changes)
        # The floors stand for TCP to Unix.
        floors = table.floors(COLUMNS, columns) if name == "tcp-unix" else None
        if floors:
            console.print(floors)
        for subject, why in lane["missing"].items():
            console.print(f"left out, {subject}: {why}", style="yellow", markup=False)


def pages(result: dict[str, Any]) -> Iterator[str]:
    """The medians of every lane in Markdown."""
    for name, lane in result["lanes"].items():
        names = measured({name for subjects in lane["columns"].values() for name in subjects})
        shown = [column for key, column in COLUMNS.items() if key != STARTUP]
        yield f"TCP to {SHOWN[LANES[name]]}:\n"
        yield table.markdown(shown, lane["columns"], names)


def plots(result: dict[str, Any], directory: Path) -> None:
    """Write one picture a lane."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, lane in result["lanes"].items():
        # Without `direct`, beside which every other bar would be short.
        proxies = [peer.name for peer in PEERS if peer.command]
        names = [name for name in proxies if any(name in s for s in lane["columns"].values())]
        shown = [column for key, column in COLUMNS.items() if key != STARTUP]
        heading = f"TCP to {SHOWN[LANES[name]]}: {result['machine']['cpu']}"
        (directory / f"bench-{name}.svg").write_text(plot.svg(heading, shown, lane["columns"], names))


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, or read, then show. 0 if there is anything to show: figures never decide the exit code."""
    args = arguments(argv)
    status = Console(stderr=True)
    if args.load_json:
        result = json.loads(args.load_json.read_text())
    else:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that every child is ended on the way out
        if not uml.inside():
            machine.enter_namespace("bench", sys.argv[1:] if argv is None else argv)
        descriptors = machine.raise_descriptors()
        placed = machine.placement(pinned=not args.no_pin)
        result = {"machine": machine.describe(descriptors, placed), "lanes": {}}
        for name in args.lane:
            try:
                lane = measure_lane(name, args, status)
            except (load.LoadError, uml.KernelError) as error:
                status.print(f"{name} left out: {error}", style="yellow", markup=False)
                continue
            if uml.inside():
                uml.report(lane)
                return 0
            result["lanes"][name] = lane
        if not result["lanes"]:
            return 1
    show(result, table.console())
    if args.json:
        args.json.write_text(json.dumps(result, indent=1) + "\n")
    if args.markdown:
        args.markdown.write_text("\n".join(pages(result)))
    if args.plot:
        plots(result, args.plot)
    return 0


if __name__ == "__main__":
    sys.exit(main())
