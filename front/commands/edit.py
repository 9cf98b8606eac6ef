"""sdedit edit: a guide becomes an image."""

from pathlib import Path

import click


@click.command(epilog="Example: sdedit edit strokes.png --out result.png --t0 0.5 --seed 3")
@click.argument("guide", type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="PNG to write; it carries its recipe.")
@click.option(
    "--mask",
    type=click.Path(path_type=Path),
    help="White may change, black stays byte for byte, grey is edited from that fraction of t0 on.",
)
@click.option("--t0", default=0.5, show_default=True, help="In (0, 1]: little is faithful, much is realistic.")
@click.option("--steps", default=25, show_default=True, help="Network evaluations a repeat.")
@click.option(
    "--sampler",
    default="ancestral",
    show_default=True,
    help="ancestral, ddim, dpmpp_2m, dpmpp_2m_sde, euler, euler_maruyama.",
)
@click.option("--eta", type=float, help="Noise of sampler ddim, in [0, 1].  [default: 0]")
@click.option(
    "--keep",
    default="fresh",
    show_default=True,
    help="What is kept outside the mask on the way: fresh, fixed, paper, official.",
)
@click.option("--repeats", default=1, show_default=True, help="The paper's K: start again from the result.")
@click.option("--seed", default=0, show_default=True, help="64 bits; the same seed gives the same noise everywhere.")
@click.option(
    "--fit",
    default="crop",
    show_default=True,
    help="Without a mask, how the guide is brought to the model's size: crop, pad, stretch.",
)
@click.option("--bundle", type=click.Path(path_type=Path), help="Folder of the model.  [default: the shipped one]")
def command(guide: Path, out: Path, mask: Path | None, bundle: Path | None, **options: object) -> None:
    """Turn GUIDE (strokes, strokes over a photo, a pasted composite) into an image.

    Without a mask the result has the model's size; with one, it is GUIDE with the masked part made anew.
    """
    from sdedit.runtime.images import check_output

    check_output(out)
    from sdedit.runtime.editor import Editor

    editor = Editor.open(bundle)
    result = editor.edit(guide, mask, **options)  # type: ignore[arg-type] # click gives what the options above declare
    result.images[0].save(out)
    image, r = result.images[0].pil, result.recipe
    click.echo(
        f"{click.format_filename(out)}: {image.width}x{image.height}, {r['bundle']['name']}, "
        f"{r['steps']} steps of {r['sampler']} from t0 {r['t0']:g}, seed {r['seed']}, {result.timings['loop']:.2f} s"
    )
