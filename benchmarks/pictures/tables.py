"""The pictures of a table in README and docs: penguins, a third of them held out, and what `vaekit.Table` makes of them.

The table comes with plotnine: A. M. Horst, A. P. Hill, K. B. Gorman, "palmerpenguins", 2020, doi:10.5281/zenodo.3960218.

    python benchmarks/pictures/tables.py
"""

from pathlib import Path

from plotnine.data import penguins

import vaekit

HERE = Path(__file__).parent
DOTS_PER_INCH = 90  # below 100 KB each


def main() -> None:
    frame = penguins.sample(frac=1.0, random_state=0)
    train, held_out = frame[: 2 * len(frame) // 3], frame[2 * len(frame) // 3 :]
    table = vaekit.Table.fit(train)
    measured = ["species", "bill_length_mm", "bill_depth_mm", "body_mass_g"]
    for name, columns in {"marginals": None, "pairs": measured}.items():
        file = HERE / f"table_{name}.png"
        table.plot(name, held_out, columns=columns).savefig(file, dpi=DOTS_PER_INCH)
        print(file)


if __name__ == "__main__":
    main()
