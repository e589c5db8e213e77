"""`scalablevit compare`."""

from pathlib import Path

from scalablevit.cli.comparing import compare, read_words, tabulate
from scalablevit.cli.errors import UsageError
from scalablevit.cli.familiar import key_of
from scalablevit.cli.importing import importing

SUMMARY = "Train a recipe under several settings and seeds, and tabulate them"
USAGE = """\
usage: scalablevit compare NAME|FILE --vary KEY=VALUE,VALUE [--vary ...] [--KEY VALUE ...] [--run FOLDER]
       scalablevit compare --tabulate FOLDER

Train a recipe under several settings and seeds, and tabulate them. Each combination is trained once with each seed, one
after another. Runs that are finished are skipped, interrupted ones are resumed: to go on, give the same command again.

options:
  NAME|FILE            recipe, as of `scalablevit fit`
  --vary KEY=V,V       key of the recipe and its values, as in a YAML list; --vary seed=0,1,2 trains each three times
  --KEY VALUE          value of the recipe for all runs; the short keys of fit work here too
  --run FOLDER         folder of the comparison; each run has a folder of its own below (default: runs/compare-NAME)
  --metric NAME        column of metrics.csv to compare by (default: the one that chooses the best checkpoint)
  --dry-run            print what would be trained, and stop
  --study              measure each run on its data as `scalablevit explain --study` does; --study-data FOLDER: on other
                       data; --study-images N: on N images (default: 20); figures that are there are kept
  --json               print the content of comparison.json in place of the table
  --tabulate FOLDER    tabulate the runs of an earlier comparison again, without training
  --allow-class NAME   let a recipe from a run folder name this class, given in full; comma between several

examples of --vary:
  --vary model.variant=scalablevit_nano,scalablevit_tiny --vary seed=0,1,2
  --vary model.network_options='{lim: true},{lim: false}'
  --vary model.network_options.channel_ratios='[1,1,1,1],[2,2,2,2]'
"""


def main(words: list[str]) -> int:
    """Run the command."""
    if words and words[0] in ("-h", "--help"):
        print(USAGE, end="")
        return 0
    varied, rest = take_varied(words)
    given = read_words("compare", rest)
    if "--tabulate" in given.taken:
        if varied:
            raise UsageError("--tabulate FOLDER reads runs that are there: leave out --vary")
        return tabulate(given)
    if not varied:
        raise UsageError("compare needs --vary KEY=VALUE,VALUE, such as --vary seed=0,1,2")
    with importing():
        from scalablevit.training.comparison.axes import combinations_of, read_axes
    combinations, seeds = combinations_of(read_axes(varied), otherwise=Path(given.configs[0]).stem)
    return compare(given, combinations, seeds)


def take_varied(words: list[str]) -> tuple[list[str], list[str]]:
    """Split a command line into the values of --vary, with full keys, and the other words.

    Raises:
        UsageError: a value is missing.
    """
    varied, rest = [], []
    todo = iter(words)
    for word in todo:
        name, equals, value = word.partition("=")
        if name != "--vary":
            rest.append(word)
            continue
        text = value if equals else next(todo, None)
        if not text or text.startswith("--"):
            raise UsageError("--vary needs KEY=VALUE,VALUE, such as --vary seed=0,1,2")
        key, equals, values = text.partition("=")
        varied.append(f"{full_key(key)}{equals}{values}")
    return varied, rest


def full_key(key: str) -> str:
    """The recipe's key that a short one stands for."""
    short = {"data": "data.root", "model": "model.variant"}
    return short.get(key) or key_of(f"--{key}").removeprefix("--")
