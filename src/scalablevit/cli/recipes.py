"""`scalablevit recipes`."""

from scalablevit.cli.words import Parser, parser_of
from scalablevit.recipes import recipe_names, recipe_text, recipe_title

SUMMARY = "List the packaged recipes, or print one"


def parser() -> Parser:
    """The command's arguments."""
    found = parser_of("recipes", SUMMARY)
    found.add_argument("name", nargs="?", help="recipe to print, as a start for your own")
    return found


def main(words: list[str]) -> int:
    """Run the command."""
    args = parser().parse_args(words)
    if args.name is not None:
        print(recipe_text(args.name), end="")
        return 0
    names = recipe_names()
    width = max(map(len, names))
    for name in names:
        print(f"{name:<{width}}  {recipe_title(name)}")
    print("\nscalablevit recipes NAME prints one; scalablevit fit --config NAME trains with it")
    return 0
