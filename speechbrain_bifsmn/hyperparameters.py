"""Reading a training YAML, with every mistake in it named."""

import difflib
import json
import re
from io import StringIO
from pathlib import Path

from hyperpyyaml import load_hyperpyyaml, resolve_references
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError as YAMLError

# What an inference folder keeps of a training YAML.
FRONT_END_KEYS = ("sample_rate", "samples", "log_mel")
NETWORK_KEYS = (*FRONT_END_KEYS, "classes", "model")


class HyperparameterError(ValueError):
    """A hyperparameter file or an override cannot be used."""


def load_hyperparameters(path, overrides, used, optional=(), nullable=()):
    """Load a YAML and refuse keys that nothing reads.

    Arguments
    ---------
    path : str or Path
        HyperPyYAML file.
    overrides : str
        What the command line changes, as YAML.
    used : set of str
        Keys that the program reads.
    optional : set of str
        Those among them that a YAML may leave out.
    nullable : set of str
        Mappings that an option may set to null, for none of it.

    Returns
    -------
    dict

    Raises
    ------
    HyperparameterError
        If the file is no YAML mapping; or naming the key: unknown (with the
        nearest known one), missing, or rejected by the object it configures.
    """
    path = Path(path)
    if not path.is_file():
        raise HyperparameterError(f"no hyperparameter file {path}")
    text = path.read_text(encoding="utf-8")
    try:
        defaults = YAML().load(text)
    except YAMLError as error:
        raise HyperparameterError(f"{path}: {_problem(error)}") from error
    if not isinstance(defaults, dict):
        raise HyperparameterError(f"{path} is not a mapping of keys to values")
    keys = set(map(str, defaults))
    code = re.sub(r"(^|\s)#.*", "", text, flags=re.MULTILINE)
    referring = " ".join(re.findall(r"!(?:ref|copy)\b.*", code))
    references = set(re.findall(r"<(\w+)", referring))
    try:
        overridden = YAML(typ="safe").load(overrides or "{}") or {}
    except YAMLError as error:
        raise HyperparameterError(
            f"cannot read the options: {_problem(error)}"
        ) from error
    for key in overridden:
        if key not in keys:
            raise HyperparameterError(
                f"{path} has no key {key!r} to override{_hint(key, keys)}"
            )
    for key in sorted(used - keys - set(optional)):
        raise HyperparameterError(
            f"{path}: the key {key!r} is missing{_hint(key, keys - used)}"
        )
    for key in sorted(keys - references - used):
        if not key.startswith("__"):
            raise HyperparameterError(
                f"{path}: nothing reads the key {key!r}"
                + _hint(key, used | references - keys)
            )
    for key in sorted(references - keys):
        raise HyperparameterError(
            f"{path}: <{key}> refers to no key{_hint(key, keys)}"
        )
    try:
        _check_types(defaults, overridden, nullable)
        with open(path, encoding="utf-8") as f:
            return load_hyperpyyaml(f, overrides)
    except YAMLError as error:
        raise HyperparameterError(f"{path}: {_problem(error)}") from error
    except HyperparameterError:
        raise
    except (
        TypeError,
        ValueError,
        AttributeError,
        ImportError,
        ArithmeticError,
        RuntimeError,
    ) as error:
        text = str(error).replace("\n", " ")
        if "!PLACEHOLDER" in text:
            missing = re.sub(r".*'(\w+)' is a !PLACEHOLDER.*", r"\1", text)
            text = f"give --{missing}=…, it has no default"
        raise HyperparameterError(f"{path}: {text}") from error


def _check_types(defaults, overridden, nullable):
    """An option has the kind of value that the YAML has."""
    for key, value in overridden.items():
        default = defaults[key]
        if value is None and key in nullable:
            continue
        if value is None and default is not None:
            raise HyperparameterError(f"--{key} needs a value")
        if isinstance(default, dict) and not isinstance(value, dict):
            kinds = "a mapping" + " or null" * (key in nullable)
            raise HyperparameterError(f"--{key} is {kinds}, not {value!r}")
        tag = getattr(default, "tag", None)
        placeholder = tag is not None and tag.value == "!PLACEHOLDER"
        text = isinstance(default, str) or placeholder
        if text and not isinstance(value, str):
            raise HyperparameterError(f"--{key} is text, not {value!r}")
        for kind, name in ((bool, "True or False"), (list, "a list")):
            if isinstance(default, kind) and not isinstance(value, kind):
                raise HyperparameterError(f"--{key} is {name}, not {value!r}")
        number = isinstance(default, int | float)
        if number and not _is_number(value, default):
            raise HyperparameterError(f"--{key} is a number, not {value!r}")


def _is_number(value, default):
    # To Python, True is the number 1.
    return isinstance(value, int | float) and (
        isinstance(value, bool) <= isinstance(default, bool)
    )


def protect(arguments):
    """Command line arguments as SpeechBrain's parser takes them.

    It splits options at every =, and for YAML a comment begins at " #". A first
    one that is no option is the YAML's path, which it takes as it is.

    Arguments
    ---------
    arguments : list of str

    Returns
    -------
    list of str

    Example
    -------
    >>> print(*protect(["--lr=1", "--data_folder=a=b #1"]))
    --lr=1 --data_folder="a\\u003db #1"
    """

    def protected(argument):
        key, equals, value = argument.partition("=")
        if not key.startswith("--"):
            key, equals, value = "", "", argument
        if "=" not in value and " #" not in value:
            return argument
        try:
            value = json.loads(value)
        except ValueError:
            if value[0] in "[{":
                return argument
        return key + equals + json.dumps(value).replace("=", "\\u003d")

    path = [x for x in arguments[:1] if not x.startswith("--")]
    return path + [protected(x) for x in arguments[len(path) :]]


def settings(path, overrides):
    """What a YAML says, options applied, as JSON has it.

    Arguments
    ---------
    path : str or Path
        The training YAML.
    overrides : str
        What the command line changes in it.

    Returns
    -------
    dict
        Numbers, texts and lists with their references resolved; mappings,
        objects among them, with theirs as they are written.
    """
    text = Path(path).read_text(encoding="utf-8")
    resolved = YAML().load(resolve_references(text, overrides))
    written = YAML().load(text)
    written.update(YAML().load(overrides or "{}") or {})
    return {
        key: _plain(written[key] if isinstance(value, dict) else value)
        for key, value in resolved.items()
    }


def _plain(node):
    """A node of a YAML, its tag beside its content, as JSON has it."""
    if isinstance(node, dict):
        content = {key: _plain(value) for key, value in node.items()}
    elif isinstance(node, list):
        content = [_plain(value) for value in node]
    else:
        content = getattr(node, "value", node)
    tag = getattr(node, "tag", None)
    content = json.loads(json.dumps(content, default=str))
    return {str(tag.value): content} if tag and tag.value else content


def check_same_run(folder, now, free):
    """Refuse to go on with a run under other settings.

    Arguments
    ---------
    folder : str or Path
        The run's output folder.
    now : dict
        What the run depends on.
    free : set of str
        Keys that may change.

    Raises
    ------
    HyperparameterError
        Naming the first setting that changed.
    """
    path = Path(folder) / "settings.json"
    if not path.is_file():
        return
    before = json.loads(path.read_text(encoding="utf-8"))
    for key in sorted((set(before) | set(now)) - set(free)):
        if before.get(key) != now.get(key):
            differs = f"with {key} {before.get(key)!r}, now it is "
            differs += repr(now.get(key))
            if key == "clips":
                differs = "that was trained on other clips"
            raise HyperparameterError(
                f"{folder} holds a run {differs}: choose another "
                "--output_folder, or delete that one"
            )


def front_end(text):
    """What a network's YAML says of what comes before it.

    Arguments
    ---------
    text : str
        As ``network_yaml`` gives it.

    Returns
    -------
    dict
        As ``settings`` gives it.
    """
    document = YAML().load(text)
    return {key: _plain(document[key]) for key in FRONT_END_KEYS}


def network_yaml(path, overrides):
    """The part of a training YAML that inference needs, as YAML text.

    Arguments
    ---------
    path : str or Path
        The training YAML.
    overrides : str
        What the command line changed.

    Returns
    -------
    str
        Numbers filled in; a ``pretrainer`` that loads ``model.ckpt`` from
        beside the file, wherever that is.

    Raises
    ------
    HyperparameterError
        If the YAML lacks a key that inference needs, or a value for one.
    """
    try:
        with open(path, encoding="utf-8") as f:
            resolved = resolve_references(f, overrides)
    except ValueError as error:
        raise HyperparameterError(
            f"{path}: {error}: give it in the overrides, as 'data_folder: x'"
        ) from error
    yaml = YAML()
    document = yaml.load(resolved)
    for key in (*FRONT_END_KEYS, "model"):
        if key not in document:
            raise HyperparameterError(
                f"{path}: the key {key!r} is missing, which a trained folder "
                "needs"
            )
    for key in [k for k in document if k not in NETWORK_KEYS]:
        del document[key]
    text = StringIO()
    yaml.dump(document, text)
    # Without the comments that the training YAML had between its keys.
    lines = [
        line
        for line in text.getvalue().splitlines()
        if line.strip() and not line.startswith("#")
    ]
    return BANNER + "\n".join(lines) + INFERENCE


BANNER = "# Written by training; bifsmn export and KeywordSpotter read it.\n"

INFERENCE = """

modules:
    log_mel: !ref <log_mel>
    model: !ref <model>

pretrainer: !new:speechbrain.utils.parameter_transfer.Pretrainer
    loadables:
        model: !ref <model>
"""


def _problem(error):
    """What a YAML parser found wrong, without the values it found."""
    return (error.problem or str(error)).split(" with value")[0]


def _hint(key, keys):
    near = difflib.get_close_matches(str(key), keys, n=1)
    return f"; did you mean {near[0]!r}?" if near else ""
