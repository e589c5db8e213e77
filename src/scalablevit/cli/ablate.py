"""`scalablevit ablate`."""

from pathlib import Path

from scalablevit.cli.comparing import compare, read_words, tabulate
from scalablevit.cli.errors import UsageError
from scalablevit.cli.importing import importing

SUMMARY = "Train a recipe with the paper's switches turned, one at a time"
USAGE = """\
usage: scalablevit ablate NAME|FILE [--only SWITCH ...] [--seeds N,N] [--KEY VALUE ...] [--run FOLDER]
       scalablevit ablate --tabulate FOLDER
       scalablevit ablate --print-switches

Train a recipe with the paper's switches turned, one at a time, under the same seeds. It is `scalablevit compare` with a
packaged list: lim, peg, pattern, channel_ratios, reductions, scale_value.

options:
  NAME|FILE            recipe, as of `scalablevit fit`
  --only SWITCH ...    switches to turn (default: all)
  --seeds N,N          seeds of each combination (default: 0,1,2)
  --switches FILE      another list of switches, as YAML
  --print-switches     print the packaged list, as a start for your own
  --KEY VALUE          value of the recipe for all runs; the short keys of fit work here too
  --run FOLDER         folder of the ablation (default: runs/ablate-NAME)
  --no-study           do not measure what the networks see; else it is done where the data have boxes or masks
  --metric, --dry-run, --json, --tabulate FOLDER, --study, --allow-class NAME   as of `scalablevit compare`
"""


def main(words: list[str]) -> int:
    """Run the command."""
    if words and words[0] in ("-h", "--help"):
        print(USAGE, end="")
        return 0
    only, rest = take_only(words)
    given = read_words("ablate", rest, values=("--seeds", "--switches"), flags=("--print-switches",))
    if "--tabulate" in given.taken:
        return tabulate(given)
    with importing():
        from scalablevit.training.comparison.axes import SEED, combinations_of, read_axes
        from scalablevit.training.comparison.switches import one_at_a_time, packaged_text, read_switches
    if "--print-switches" in given.taken:
        print(packaged_text(), end="")
        return 0
    file = given.taken.get("--switches")
    combinations = one_at_a_time(read_switches(None if file is None else Path(file)), only)
    try:
        _, seeds = combinations_of(read_axes([f"{SEED}={given.taken.get('--seeds', '0,1,2')}"]), otherwise="")
    except ValueError as error:
        raise UsageError(str(error).replace(f"--vary {SEED}", "--seeds")) from None
    return compare(given, combinations, seeds)


def take_only(words: list[str]) -> tuple[list[str], list[str]]:
    """Split a command line into the switches of --only and the other words.

    Raises:
        UsageError: no switch follows.
    """
    only: list[str] = []
    rest: list[str] = []
    is_open = False
    for word in words:
        name, _, value = word.partition("=")
        if name == "--only":
            is_open, word = True, value
        elif word.startswith("--"):
            is_open = False
        if is_open:
            only += [switch for switch in word.split(",") if switch]
        else:
            rest.append(word)
    if not only and any(word.partition("=")[0] == "--only" for word in words):
        raise UsageError("--only needs the names of switches, such as --only lim peg")
    return only, rest
