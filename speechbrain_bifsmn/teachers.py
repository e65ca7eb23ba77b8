"""Whom a student learns from: trained networks, frozen, one or several."""

import copy
import hashlib
from pathlib import Path

import torch

from speechbrain_bifsmn.data.manifest import read_labels
from speechbrain_bifsmn.hyperparameters import YAMLError, front_end
from speechbrain_bifsmn.inference import load_weights, read_weights


def load_teacher(teacher, checkpoint):
    """A trained network, frozen and in eval mode.

    Arguments
    ---------
    teacher : nn.Module
        Untrained network of the right sizes.
    checkpoint : str or Path
        Its state dict. Only weights are read, never pickled code.

    Returns
    -------
    nn.Module

    Raises
    ------
    FileNotFoundError
        If there is no checkpoint; it says what makes one.
    ValueError
        If the checkpoint is damaged, of another network, or holds anything
        but weights.
    """
    check_teacher(checkpoint)
    try:
        load_weights(checkpoint, teacher)
    except ValueError as error:
        raise ValueError(
            f"{error}; a teacher of other sizes needs them as options, too"
        ) from error
    return teacher.eval().requires_grad_(False)


def check_teacher(checkpoint):
    """Refuse a teacher that is not there.

    Raises
    ------
    FileNotFoundError
        It says what makes one.
    """
    if not Path(checkpoint).is_file():
        raise FileNotFoundError(
            f"no teacher at {checkpoint}: train one first, as the YAML's "
            "first lines say, or pass --teacher_folder"
        )


def load_teachers(network, folders, labels, ours):
    """The trained network of each folder.

    Arguments
    ---------
    network : nn.Module
        Untrained, of their sizes.
    folders : list of Path
        Trained folders.
    labels : list of str
        Those of the student.
    ours : dict
        Its ``front_end``.

    Returns
    -------
    list of nn.Module

    Raises
    ------
    FileNotFoundError
        If a folder is not there, or not whole.
    ValueError
        If one is damaged, knows other words, or hears them otherwise.
    """
    teachers = []
    for folder in folders:
        weights = folder / "model.ckpt"
        teachers.append(load_teacher(copy.deepcopy(network), weights))
        theirs = read_labels(folder / "labels.txt")
        if theirs != labels:
            raise ValueError(
                f"the teacher in {folder} knows {', '.join(theirs)}, not "
                f"{', '.join(labels)}: pass another --teacher_folder, or "
                "--results_folder for each list of words"
            )
        path = folder / "hyperparams.yaml"
        try:
            heard = front_end(path.read_text(encoding="utf-8"))
        except (KeyError, TypeError, YAMLError) as error:
            raise ValueError(f"{path} is damaged: {error}") from error
        for key, value in heard.items():
            if value != ours[key]:
                raise ValueError(
                    f"the teacher in {folder} has another front end, {key} "
                    f"{value} for {ours[key]}: train one with this, or pass "
                    "another --teacher_folder"
                )
    return teachers


def digests(folders):
    """What tells trained folders apart: a hash of each one's weights.

    Not of the file, which has a number of the process that wrote it.
    """
    found = []
    for folder in folders:
        check_teacher(folder / "model.ckpt")
        digest = hashlib.sha256()
        for name, value in read_weights(folder / "model.ckpt").items():
            digest.update(f"{name} {value.dtype} {list(value.shape)}".encode())
            digest.update(value.numpy().tobytes())
        found.append(digest.hexdigest()[:12])
    return found


class Ensemble(torch.nn.Module):
    """Several teachers as one: the mean of their logits.

    Features are those of the first, since layers of different networks do not
    correspond.

    Arguments
    ---------
    teachers : list of nn.Module
        Frozen networks with the same classes and depths.
    """

    def __init__(self, teachers):
        super().__init__()
        self.teachers = torch.nn.ModuleList(teachers)
        self.depths = teachers[0].depths

    def forward(self, feats, depth):
        """Mean logits and the first teacher's features, by depth."""
        first, *others = [net(feats, depth=depth) for net in self.teachers]
        outputs = {}
        for n, (logits, features) in first.items():
            logits = [logits, *(other[n][0] for other in others)]
            outputs[n] = torch.stack(logits).mean(0), features
        return outputs
