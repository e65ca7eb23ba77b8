"""Trained folders: writing them, and recognising keywords with them."""

import io
import json
import textwrap
from pathlib import Path

import torch
from ruamel.yaml.error import YAMLError
from speechbrain.inference.interfaces import Pretrained

from speechbrain_bifsmn.data.audio import LOUDEST, read_audio
from speechbrain_bifsmn.data.manifest import check_labels, read_labels
from speechbrain_bifsmn.files import whole_files
from speechbrain_bifsmn.hyperparameters import network_yaml
from speechbrain_bifsmn.pretrained import FOLDER

# A trained folder; weights last, so that one with weights is whole.
FILES = "hyperparams.yaml", "labels.txt", "training.json", "model.ckpt"


def save_trained(folder, hparams_file, overrides, model, labels, facts):
    """Write a folder that can be moved, loaded and exported.

    ``hyperparams.yaml`` (front end and network, numbers filled in),
    ``model.ckpt``, ``labels.txt`` and ``training.json``.

    Arguments
    ---------
    folder : str or Path
        Where to write.
    hparams_file : str or Path
        The training YAML.
    overrides : str
        What the command line changed in it, as YAML: ``data_folder: x``.
    model : nn.Module
        Trained network.
    labels : list of str
        Class names.
    facts : dict
        How it was trained; exported with the model.

    Raises
    ------
    HyperparameterError
        See ``network_yaml``.
    OSError
        If the folder cannot be written.
    DataError
        If a label is empty, has a line break, or is there twice.
    """
    check_labels(labels, folder)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    texts = (
        network_yaml(hparams_file, overrides),
        "".join(label + "\n" for label in labels),
        json.dumps(facts, indent=1) + "\n",
    )
    with whole_files([folder / name for name in FILES]) as (*parts, weights):
        # To a file of its own torch writes otherwise, and names no full disk.
        with open(weights, "wb") as out:
            torch.save(model.state_dict(), out)
        for part, text in zip(parts, texts, strict=True):
            part.write_text(text, encoding="utf-8")


def load_weights(path, module):
    """Load a state dict, all of it, and never pickled code.

    Arguments
    ---------
    path : str or Path
        Checkpoint with the state dict.
    module : nn.Module
        Network of the right sizes.

    Raises
    ------
    ValueError
        If the checkpoint is damaged, of another network, or holds anything
        but weights.
    """
    try:
        module.load_state_dict(read_weights(path))
    except RuntimeError as error:
        raise ValueError(
            f"{path} holds the weights of another network: {_line(error)}"
        ) from error


def read_weights(path):
    """The state dict of a checkpoint.

    Arguments
    ---------
    path : str or Path
        Checkpoint.

    Returns
    -------
    dict of str to torch.Tensor

    Raises
    ------
    ValueError
        If it is damaged or holds anything but weights.
    """
    data = io.BytesIO(Path(path).read_bytes())
    try:
        state = torch.load(data, map_location="cpu", weights_only=True)
    except Exception as error:  # On damaged bytes torch raises of any kind.
        raise ValueError(
            f"{path} is damaged or holds more than weights, which is not "
            "loaded: copy it again or train again"
        ) from error
    if not isinstance(state, dict) or not all(
        isinstance(k, str) for k in state
    ):
        raise ValueError(f"{path} holds no weights: copy it or train again")
    return state


def _line(error):
    """An error's text on one line; torch and YAML write several."""
    return textwrap.shorten(str(error), 200, placeholder=" ...")


class KeywordSpotter(Pretrained):
    """A trained folder in PyTorch, in SpeechBrain's way.

    Arguments
    ---------
    See ``Pretrained``.

    Example
    -------
    >>> spotter = KeywordSpotter.from_hparams()  # doctest: +SKIP
    >>> spotter.classify_file("yes.wav")  # doctest: +SKIP
    ('yes', 0.98)
    """

    MODULES_NEEDED = ["log_mel", "model"]
    HPARAMS_NEEDED = ["sample_rate", "samples", "model"]
    labels = None  # whom SpeechBrain's own loaders make has none

    @classmethod
    def from_hparams(cls, source=FOLDER, **kwargs):
        """Load a trained folder; nothing is written into it.

        Arguments
        ---------
        source : str or Path
            The folder, or a training output folder that has it as ``model``;
            the network in the package, if not given. One of the Hugging Face
            Hub is first downloaded: ``huggingface_hub.snapshot_download``.
        **kwargs
            See ``Pretrained.from_hparams``; ``savedir`` is not used, since
            nothing is fetched.

        Returns
        -------
        KeywordSpotter

        Raises
        ------
        FileNotFoundError
            If it is not a trained folder.
        ValueError
            If ``hyperparams.yaml`` does not describe a network, or the
            checkpoint is damaged, of another network, or holds anything but
            weights, or the labels are not as many as its outputs. Errors are
            SpeechBrain's own where arguments are given.
        """
        source = trained_folder(source)
        weights = source / "model.ckpt"
        read_weights(weights)
        # Files that another folder left there would be taken for this one's.
        kwargs.pop("savedir", None)
        try:
            spotter = super().from_hparams(str(source), **kwargs)
        except RuntimeError as error:
            if "loading state_dict" not in str(error):
                raise
            raise ValueError(
                f"{weights} holds the weights of another network: "
                f"{_line(error)}"
            ) from error
        except (
            *(KeyError, YAMLError, TypeError, ValueError),
            *(AttributeError, ImportError),
        ) as error:
            if kwargs:
                raise  # It may be theirs.
            missing = isinstance(error, KeyError)
            raise ValueError(
                f"{source / 'hyperparams.yaml'}"
                + (f" has no key {error}" if missing else f": {_line(error)}")
            ) from error
        if kwargs.get("download_only"):
            return spotter
        # Unfrozen, it would come in train mode.
        spotter.mods.eval()
        # SpeechBrain only warns of weights that are missing or left over.
        load_weights(weights, spotter.hparams.model)
        spotter.labels = read_labels(source / "labels.txt")
        silence = torch.zeros(1, spotter.hparams.samples)
        outputs = spotter.classify_batch(silence).shape[-1]
        if len(spotter.labels) != outputs:
            raise ValueError(
                f"{source / 'labels.txt'} has {len(spotter.labels)} labels, "
                f"the network {outputs} outputs: copy it again"
            )
        return spotter

    def classify_batch(self, wavs, lens=None, depth=None):
        """Posteriors of waveforms.

        Arguments
        ---------
        wavs : torch.Tensor, [batch, samples]
            Clips within ±1; shorter ones are zero-padded at the end.
        lens : torch.Tensor, optional
            Not used.
        depth : int, optional
            Depth to run at; the deepest, if not given.

        Returns
        -------
        torch.Tensor, [batch, classes]

        Raises
        ------
        ValueError
            If the clips are longer than the network's window, are integers, or
            have samples that are no numbers or far from ±1.
        """
        if not wavs.isfinite().all():
            raise ValueError("the clips have samples that are no numbers")
        if (wavs.abs() > LOUDEST).any():
            raise ValueError(
                "the clips are not within ±1: divide 16-bit samples by 32768"
            )
        missing = self.hparams.samples - wavs.shape[-1]
        if missing < 0:
            raise ValueError(
                f"clips have {wavs.shape[-1]} samples, the network's window "
                f"is {self.hparams.samples}: cut them into windows"
            )
        wavs = torch.nn.functional.pad(wavs.to(self.device), [0, missing])
        with torch.no_grad():
            feats = self.mods.log_mel(wavs)
            chosen = {} if depth is None else {"depth": depth}
            return self.mods.model(feats, **chosen).softmax(-1)

    def classify_file(self, path, depth=None):
        """Keyword and probability of a sound file of at most one window.

        Arguments
        ---------
        path : str or Path
            Mono, at the network's sample rate.
        depth : int, optional
            Depth to run at.

        Returns
        -------
        (str, float)

        Raises
        ------
        DataError
            If it is no such file, see ``read_pcm``.
        ValueError
            If it is longer than a window, or ``labels`` were not loaded.
        """
        if self.labels is None:
            raise ValueError(
                "the labels of this KeywordSpotter are not known: load it with "
                "KeywordSpotter.from_hparams, or set its labels"
            )
        rate = self.hparams.sample_rate
        wav = torch.as_tensor(read_audio(path, sample_rate=rate))
        posteriors = self.classify_batch(wav.unsqueeze(0), depth=depth)[0]
        best = int(posteriors.argmax())
        return self.labels[best], float(posteriors[best])


def trained_folder(path):
    """The trained folder at a path or in its ``model`` subfolder.

    Arguments
    ---------
    path : str or Path
        What a user named.

    Returns
    -------
    Path

    Raises
    ------
    FileNotFoundError
        If there is none, naming what is missing.
    """
    path = Path(path)
    if not path.is_dir():
        raise FileNotFoundError(f"no folder {path}")
    for folder in (path, path / "model"):
        if not (folder / "model.ckpt").is_file():
            continue
        for name in FILES:
            if not (folder / name).is_file():
                raise FileNotFoundError(
                    f"{folder} is not a whole trained folder: it has no "
                    f"{name}; copy it again"
                )
        return folder
    raise FileNotFoundError(
        f"{path} is not a trained folder: it has no model.ckpt. "
        "recipes/SpeechCommands/train.py writes one"
    )
