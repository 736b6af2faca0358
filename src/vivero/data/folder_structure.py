"""What the levels of a folder mean: splits, classes, or neither. Pure; an open question stops it.

A wrong guess would train on test images or invent classes. So a folder is understood only where
everything in it has one meaning; otherwise the error shows the meanings that are possible and what
to type. Images beside the folders never change what the folders mean.
"""

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

from vivero.data.class_names import shown_names
from vivero.data.shards import SPLITS, Split
from vivero.data.split_names import is_numbered_split, split_in_name, split_of_name
from vivero.errors import DataError

LayoutName = Literal["splits", "classes", "flat"]
Parts = tuple[str, ...]


@dataclass(frozen=True)
class Structure:
    """What the levels below a folder mean.

    Attributes:
        wrapper: Folders around everything.
        splits: Split by folder name just below the wrapper; none where there are no splits.
        class_depth: Which part of a path is the class; None where folders are no classes.
        strays: Paths of images that are beside the folders.
    """

    wrapper: Parts
    splits: dict[str, Split]
    class_depth: int | None
    strays: tuple[str, ...] = ()

    def split_of(self, parts: Parts) -> Split | None:
        """The split of a file; None for one that is outside all splits."""
        depth = len(self.wrapper)
        if not self.splits:
            return "train"
        if parts[:depth] != self.wrapper or len(parts) <= depth + 1:
            return None
        return self.splits.get(parts[depth])

    def class_of(self, parts: Parts) -> str | None:
        """The folder that names the class of a file."""
        is_inside = parts[: len(self.wrapper)] == self.wrapper
        if self.class_depth is None or not is_inside or len(parts) <= self.class_depth + 1:
            return None
        return parts[self.class_depth]

    def text(self) -> str:
        """The meaning in words."""
        where = f" in {'/'.join(self.wrapper)}/" if self.wrapper else ""
        kinds = "no class folders" if self.class_depth is None else "classes by folder"
        if not self.splits:
            return f"no splits, {kinds}{where}"
        return f"splits {', '.join(f'{name}/' for name in sorted(self.splits))}, {kinds}{where}"


@dataclass(frozen=True)
class _Level:
    """One level of the tree: images in each folder, images beside the folders."""

    wrapper: Parts
    folders: Counter[str]
    strays: tuple[str, ...]


def understand(
    paths: Sequence[Parts],
    asked: LayoutName | None = None,
    known_names: Collection[str] = (),
    has_metadata: bool = False,
) -> Structure:
    """Find the meaning of the levels.

    Args:
        paths: Parts of the path of each image.
        asked: The meaning that a person chose; None = only one may be possible.
        known_names: Classes of the data set that the images join; never taken for splits.
        has_metadata: Whether metadata names the classes, so that folders need not.

    Raises:
        DataError: When more than one meaning is possible, or the chosen one is not.
    """
    level = _outermost(paths, asked)
    if asked == "flat" or not level.folders:
        return Structure((), {}, None)
    if asked == "classes":
        return Structure(level.wrapper, {}, len(level.wrapper), level.strays)
    if asked == "splits":
        return _asked_splits(paths, level, bool(known_names))
    structure = _only_meaning(paths, level, known_names)
    if not known_names:
        _check_strays(paths, level, structure, has_metadata)
    return structure


def _only_meaning(paths: Sequence[Parts], level: _Level, known_names: Collection[str]) -> Structure:
    names = list(level.folders)
    splits = {name: split for name in names if name not in known_names and
              (split := split_of_name(name))}  # fmt: skip
    others = [name for name in names if name not in splits]
    is_joining = bool(known_names)
    if splits and others:
        raise _question(
            paths, level, f"{_folders(splits)} have names of splits, {_folders(others)} not"
        )
    if splits and "train" not in splits.values() and not is_joining:
        raise _question(paths, level, f"{_folders(splits)} would leave no images for training")
    mentions = [] if splits else _mentions(names, known_names)
    if mentions:
        why = f"{_folders(mentions)} mention splits, but are not named like them"
        raise _question(paths, level, why)
    if len(names) == 1 and not splits:  # beside images that need no folder either
        return Structure((), {}, None)
    structure = _with_classes(paths, level, splits)
    deeper = _deeper_splits(paths, structure.class_depth or 0, known_names)
    if deeper:
        raise _question(paths, level, f"{deeper} is the name of a split inside another folder")
    return structure


def _mentions(
    names: Collection[str], known_names: Collection[str], alone: bool = True
) -> list[str]:
    """Names side by side that probably mean splits; none where a class just has such a word.

    One name is enough if it has no other word (`train2017`). Others (`train_station`, `cars_test`)
    count where two splits are mentioned, or where no name is without one and `alone` is set.
    """
    found = {
        name: split for name in names if name not in known_names and (split := split_in_name(name))
    }
    is_all = alone and len(found) == len(names)
    is_clear = is_all or len(set(found.values())) > 1 or any(map(is_numbered_split, found))
    return list(found) if is_clear else []


def _outermost(paths: Sequence[Parts], asked: LayoutName | None) -> _Level:
    """The first level that is more than a folder around everything."""
    wrapper: Parts = ()
    strays: tuple[str, ...] = ()
    while True:
        level = _level(paths, wrapper)
        strays += level.strays
        names = list(level.folders)
        inner = (*wrapper, *names)
        is_wrapper = len(names) == 1 and (asked == "classes" or not split_of_name(names[0]))
        if is_wrapper and asked == "splits":
            is_wrapper = not split_in_name(names[0])
        if is_wrapper and asked is None:  # `test2017/cat` is not for training
            is_wrapper = not _is_held_out(paths, inner)
        needs_structure = bool(strays) or asked == "classes"
        if not is_wrapper or (needs_structure and not _has_structure(paths, inner)):
            return _Level(wrapper, level.folders, strays)
        wrapper = inner


def _is_held_out(paths: Sequence[Parts], folder: Parts) -> bool:
    """Whether a folder's name means a split that is not for training, and no split is inside."""
    name = folder[-1]
    inside = [parts for parts in paths if parts[: len(folder)] == folder]
    is_held_out = is_numbered_split(name) and split_in_name(name) != "train"
    return is_held_out and not _deeper_splits(inside, len(folder), ())


def _level(paths: Sequence[Parts], wrapper: Parts) -> _Level:
    depth = len(wrapper)
    inside = [parts for parts in paths if parts[:depth] == wrapper]
    folders = Counter(parts[depth] for parts in inside if len(parts) > depth + 1)
    strays = ["/".join(parts) for parts in inside if len(parts) == depth + 1]
    return _Level(wrapper, Counter(dict(sorted(folders.items()))), tuple(sorted(strays)))


def _has_structure(paths: Sequence[Parts], wrapper: Parts) -> bool:
    """Whether splits, or folders side by side, are anywhere below a folder."""
    level = _level(paths, wrapper)
    names = list(level.folders)
    if len(names) != 1:
        return len(names) > 1
    return bool(split_of_name(names[0])) or _has_structure(paths, (*wrapper, *names))


def _asked_splits(paths: Sequence[Parts], level: _Level, is_joining: bool) -> Structure:
    splits = _possible_splits(level.folders)
    if not splits:
        raise DataError(
            f"--layout splits needs folders such as train/ and test/; there are "
            f"{_folders(list(level.folders))}. Rename them, or leave the option out"
        )
    if "train" not in splits.values() and not is_joining:
        raise DataError(
            f"--layout splits would leave no images for training; {_folders(splits)} are for "
            f"validation or test. Name the folder with the training images train/"
        )
    return _with_classes(paths, level, splits)


def _possible_splits(names: Collection[str]) -> dict[str, Split]:
    """Folders named like splits; where none of them is for training, those that mention one."""
    named = {name: split for name in names if (split := split_of_name(name))}
    mentioned = {name: split for name in names if (split := split_in_name(name))}
    return named if "train" in named.values() else mentioned


def _with_classes(paths: Sequence[Parts], level: _Level, splits: dict[str, Split]) -> Structure:
    """Add where the classes are: below the splits, and below folders around all of each split."""
    place = len(level.wrapper)
    depth = place + bool(splits)
    inside = [
        parts
        for parts in paths
        if parts[:place] == level.wrapper and len(parts) > place + 1 and parts[place] in splits
    ]
    while splits:
        below: dict[str, set[str]] = {name: set() for name in splits}
        for parts in inside:
            if len(parts) > depth + 1:
                below[parts[place]].add(parts[depth])
        has_strays = any(len(parts) == depth + 1 for parts in inside)
        if not _is_around_all(below, splits) or (has_strays and not _parts_below(inside, depth)):
            break
        depth += 1
    return Structure(level.wrapper, splits, depth, level.strays)


def _is_around_all(below: dict[str, set[str]], splits: dict[str, Split]) -> bool:
    """Whether each split has one folder: all of one name, or its own again."""
    if any(len(names) != 1 for names in below.values()):
        return False
    names = {split: next(iter(folders)) for split, folders in below.items()}
    is_repeated = all(split_in_name(name) == splits[split] for split, name in names.items())
    is_common = len(set(names.values())) == 1 and not any(map(split_of_name, names.values()))
    return is_repeated or is_common


def _parts_below(paths: Sequence[Parts], depth: int) -> bool:
    """Whether folders of several names are at one level below a depth."""
    deepest = max(map(len, paths))
    levels = ({p[at] for p in paths if len(p) > at + 1} for at in range(depth + 1, deepest))
    return any(len(names) > 1 for names in levels)


def _deeper_splits(paths: Sequence[Parts], begin: int, known_names: Collection[str]) -> str | None:
    """The first path whose inner folders have the name of a split, or probably mean one."""
    children: dict[Parts, dict[str, None]] = {}
    for parts in paths:
        for place in range(begin, len(parts) - 1):
            children.setdefault(parts[:place], {})[parts[place]] = None
    for folder, folders in children.items():
        names = [name for name in folders if name not in known_names]
        named = list(filter(split_of_name, names)) or _mentions(names, known_names, alone=False)
        if named:
            return "/".join([*folder, named[0]]) + "/"
    return None


def _check_strays(
    paths: Sequence[Parts], level: _Level, structure: Structure, has_metadata: bool
) -> None:
    """Ask where at least as many images are beside the folders as in them."""
    splits = [structure.split_of(parts) for parts in paths]
    num_outside = splits.count(None)
    if num_outside and 2 * num_outside >= len(paths):
        raise _question(
            paths, level, f"{num_outside} of {len(paths)} images are outside the splits"
        )
    if has_metadata or structure.class_depth is None:
        return
    classes = [structure.class_of(parts) for parts in paths]
    if not any(classes):
        return
    for split in set(splits) - {None}:
        found = [name for name, of in zip(classes, splits, strict=True) if of == split]
        num_beside = found.count(None)
        if num_beside and 2 * num_beside >= len(found):
            raise _question(
                paths,
                level,
                f"{num_beside} of {len(found)} images of {split} are beside the folders",
            )


def _question(paths: Sequence[Parts], level: _Level, why: str) -> DataError:
    """The error that asks what the folders mean."""
    where = "/".join(level.wrapper) + "/" if level.wrapper else "the folder"
    contents = ", ".join(f"{name}/ ({count} images)" for name, count in level.folders.items())
    strays = f"; beside them {shown_names(level.strays)}" if level.strays else ""
    lines = [f"cannot tell what the folders mean: {why}.", f"In {where}: {contents}{strays}."]
    inner = {name: _split_inside(paths, (*level.wrapper, name)) for name in level.folders}
    mapped = _possible_splits(level.folders)
    others = [name for name in level.folders if name not in mapped]
    if any(inner.values()):  # a layout would mix the splits
        lines.append("No --layout fits, because folders of splits are inside other folders.")
        without = [name for name, path in inner.items() if not path and name not in mapped]
        left_out = without or [path.rstrip("/") for path in inner.values() if path]
        advice = "or move the files so that the splits are outermost, such as train/cat/1.png."
        lines.append(f"Leave something out with {_ignore(left_out[0])}, {advice}")
        return DataError("\n".join(lines))
    if "train" in mapped.values():
        by_split = [
            f"{split} = {_folders([name for name in mapped if mapped[name] == split])}"
            for split in SPLITS
            if split in mapped.values()
        ]
        left_out = [f"{name}/" for name in others] + list(level.strays)
        rest = f"; left out: {shown_names(left_out)}" if left_out else ""
        lines.append(f"  --layout splits   {', '.join(by_split)}{rest}")
    beside = f"; left out: {shown_names(level.strays)}" if level.strays else ""
    lines.append(f"  --layout classes  {shown_names(list(level.folders))} are classes{beside}")
    lines.append("  --layout flat     all images, no classes, split by content")
    left_out = others or list(level.folders)
    lines.append(
        f"Type one of these options, leave something out with {_ignore(left_out[0])}, or move the "
        f"files."
    )
    return DataError("\n".join(lines))


def _split_inside(paths: Sequence[Parts], folder: Parts) -> str | None:
    """The first folder of a split inside a folder; not one that only repeats its name."""
    inside = [parts for parts in paths if parts[: len(folder)] == folder]
    own = split_in_name(folder[-1])
    return _deeper_splits(
        [p for p in inside if split_in_name(p[len(folder)]) != own or own is None], len(folder), ()
    )


def _ignore(name: str) -> str:
    return f"--ignore PATTERN (such as --ignore {shown_names([name])})"


def _folders(names: Collection[str]) -> str:
    return ", ".join(f"{name}/" for name in names)
