"""Reading a training YAML, with every mistake in it named."""

import difflib
import re
from io import StringIO
from pathlib import Path

from hyperpyyaml import load_hyperpyyaml, resolve_references
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError as YAMLError

# What an inference folder keeps of a training YAML.
NETWORK_KEYS = ("sample_rate", "samples", "classes", "log_mel", "model")


class HyperparameterError(ValueError):
    """A hyperparameter file or an override cannot be used."""


def load_hyperparameters(path, overrides, used):
    """Load a YAML and refuse keys that nothing reads.

    Arguments
    ---------
    path : str or Path
        HyperPyYAML file.
    overrides : str
        What the command line changes, as YAML.
    used : set of str
        Keys that the program reads.

    Returns
    -------
    dict

    Raises
    ------
    HyperparameterError
        Naming the key: unknown (with the nearest known one), missing, or
        rejected by the object it configures.
    """
    path = Path(path)
    if not path.is_file():
        raise HyperparameterError(f"no hyperparameter file {path}")
    text = path.read_text(encoding="utf-8")
    keys = set(re.findall(r"^([A-Za-z_]\w*):", text, re.MULTILINE))
    references = set(re.findall(r"<(\w+)", text))
    try:
        overridden = YAML(typ="safe").load(overrides or "{}") or {}
    except YAMLError as error:
        raise HyperparameterError(
            f"cannot read the options: {error.problem or error}"
        ) from error
    for key in overridden:
        if key not in keys:
            raise HyperparameterError(
                f"{path} has no key {key!r} to override{_hint(key, keys)}"
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
        with open(path, encoding="utf-8") as f:
            return load_hyperpyyaml(f, overrides)
    except YAMLError as error:
        raise HyperparameterError(f"{path}: {error.problem}") from error
    except (TypeError, ValueError, AttributeError, ImportError) as error:
        text = str(error).replace("\n", " ")
        if "!PLACEHOLDER" in text:
            missing = re.sub(r".*'(\w+)' is a !PLACEHOLDER.*", r"\1", text)
            text = f"give --{missing}=…, it has no default"
        raise HyperparameterError(f"{path}: {text}") from error


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
    """
    with open(path, encoding="utf-8") as f:
        resolved = resolve_references(f, overrides)
    yaml = YAML()
    document = yaml.load(resolved)
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


def _hint(key, keys):
    near = difflib.get_close_matches(key, keys, n=1)
    return f"; did you mean {near[0]!r}?" if near else ""
