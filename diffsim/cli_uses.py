"""Commands of ``diffsim`` for the uses in `diffsim.applications`: effective, wall, chip, denoise."""

from pathlib import Path
from typing import Annotated

import typer

from .console import emit, note, say, table

uses = typer.Typer()

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object, for machines.")]
Plot = Annotated[Path | None, typer.Option("--plot", metavar="FILE", help="Also write a picture (.png, .svg, .pdf).")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No messages, only results and errors.")]


@uses.command()
def effective(
    image: Annotated[Path, typer.Argument(metavar="FIELD", help="Conductivities: .npy, or grey values of an image.")],
    axis: Annotated[int, typer.Option(min=0, max=2, help="Axis of the array along which to measure.")] = 0,
    json: Json = False,
) -> None:
    """Effective conductivity of a coefficient field, its other sides insulated."""
    from . import effective as measure
    from . import store

    field = store.read_image(image)
    facts = {
        "shape": field.shape,
        "axis": axis,
        "effective": measure(field, axis=axis),
        "mean": float(field.mean()),
    }
    if json:
        emit(facts)
    else:
        say(table(list(facts.items())))


@uses.command()
def wall(
    layers: Annotated[
        list[str],
        typer.Argument(
            metavar="LAYER...",
            help="From inside to outside: 'material:thickness' (a name of the table or a conductivity; metres), or a "
            "number: the resistance of a gap [m2 K/W].",
        ),
    ],
    inside: Annotated[float, typer.Option(help="Air temperature inside.")] = 20.0,
    outside: Annotated[float, typer.Option(help="Air temperature outside.")] = 0.0,
    inside_resistance: Annotated[float, typer.Option(min=0, help="Surface resistance [m2 K/W].")] = 0.13,
    outside_resistance: Annotated[float, typer.Option(min=0, help="Surface resistance [m2 K/W].")] = 0.04,
    plot: Plot = None,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Heat flow through a wall of layers (EN ISO 6946).

    diffsim wall "gypsum plaster:0.015" "mineral wool:0.16" 0.18 "solid clay brick 1800:0.115" --outside -10
    """
    from . import wall as section_of

    section = section_of(
        [_layer(text) for text in layers],
        inside,
        outside,
        inside_resistance=inside_resistance,
        outside_resistance=outside_resistance,
    )
    if plot is not None:
        section.plot(plot)
    if json:
        emit({"u_value": section.u_value, "flux": section.flux, "interfaces": section.interfaces.tolist()})
        return
    say(section.explain())
    if plot is not None and not quiet:
        note(f"wrote {plot}")


def _layer(text: str):
    """'name:0.1' -> (name, 0.1); '0.035:0.1' -> (0.035, 0.1); '0.18' -> 0.18."""
    what, separator, thickness = text.rpartition(":")
    try:
        if not separator:
            return float(text)
        number = float(thickness)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is neither 'material:thickness in metres' nor a resistance.") from None
    try:
        return float(what), number
    except ValueError:
        return what, number


@uses.command()
def chip(
    floorplan: Annotated[Path, typer.Argument(metavar="X.flp", help="name width height left bottom [m], per line.")],
    power: Annotated[Path, typer.Argument(metavar="X.ptrace", help="Block names, then lines of watts.")],
    cells: Annotated[int, typer.Option(min=2, help="Of the map, along each side of the die.")] = 64,
    sink_resistance: Annotated[float, typer.Option(help="Heat sink to air [K/W].")] = 0.1,
    ambient: Annotated[float, typer.Option(help="Air temperature [K].")] = 318.15,
    plot: Plot = None,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Steady temperature of a chip from a HotSpot floorplan and power trace, on the default package."""
    from . import chip as settle

    result = settle(floorplan, power, cells=cells, sink_resistance=sink_resistance, ambient=ambient)
    if plot is not None:
        result.plot(plot)
    facts = {
        "power": result.power, "heat_out": result.heat_out, "maximum": result.maximum, "hottest": result.hottest,
        "residual": result.residual,
    }  # fmt: skip
    if json:
        emit({**facts, "blocks": result.blocks})
        return
    say(table([*facts.items(), *sorted(result.blocks.items(), key=lambda item: -item[1])]))
    if plot is not None and not quiet:
        note(f"wrote {plot}")


@uses.command()
def denoise(
    image: Annotated[Path, typer.Argument(metavar="IMAGE", help="Grey image or .npy.")],
    out: Annotated[Path, typer.Argument(metavar="OUT.npy", help="The denoised grey values.")],
    noise: Annotated[float | None, typer.Option(help="Standard deviation of the noise; estimated by default.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite files that exist.")] = False,
    plot: Plot = None,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Remove noise from an image and keep its edges."""
    from . import denoise as clean
    from . import store

    store.new_path(out, force=force)
    result = clean(store.read_image(image), noise=noise)
    store.write_npy(out, result.image)
    if plot is not None:
        result.plot(plot)
    if json:
        names = ("noise_before", "noise_after", "edges_kept", "contrast", "until", "steps")
        emit({name: getattr(result, name) for name in names})
        return
    say(result.explain())
    if not quiet:
        note(f"wrote {out}")
