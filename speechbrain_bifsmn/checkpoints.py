"""Checkpoints that an interruption cannot spoil."""

import os
import shutil

from speechbrain.utils.checkpoints import METAFNAME, Checkpointer
from speechbrain.utils.distributed import ddp_barrier, if_main_process

UNFINISHED = "unfinished.yaml"


class WholeCheckpointer(Checkpointer):
    """SpeechBrain's checkpointer; a checkpoint counts once it is whole.

    The file by which a folder is known as a checkpoint is written first there,
    so one whose saving was interrupted is the newest, and cannot be loaded.
    Here that file gets its name last.

    Arguments
    ---------
    *args, **kwargs
        See ``speechbrain.utils.checkpoints.Checkpointer``.
    """

    def save_checkpoint(self, *args, **kwargs):
        """See ``Checkpointer``.

        Raises
        ------
        OSError
            If it cannot be written.
        """
        if if_main_process():
            for unfinished in self.checkpoints_dir.glob(f"*/{UNFINISHED}"):
                shutil.rmtree(unfinished.parent)
        try:
            checkpoint = super().save_checkpoint(*args, **kwargs)
        except RuntimeError as error:  # torch's, if the disk is full
            raise OSError(
                f"no checkpoint can be written to {self.checkpoints_dir}, is "
                f"the disk full? {str(error).splitlines()[0]}"
            ) from error
        if checkpoint is not None:  # None where another process saves
            folder = checkpoint.path
            os.replace(folder / UNFINISHED, folder / METAFNAME)
        # Other processes look for checkpoints next, and must see the same.
        ddp_barrier()
        return checkpoint

    def _save_checkpoint_metafile(self, fpath, *args, **kwargs):
        fpath = fpath.with_name(UNFINISHED)
        return super()._save_checkpoint_metafile(fpath, *args, **kwargs)
