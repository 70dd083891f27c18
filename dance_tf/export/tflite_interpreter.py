"""LiteRT's interpreter, opened in silence and without a delegate that would break it."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from dance_tf.errors import UserError
from dance_tf.export.serving import SIGNATURE

if TYPE_CHECKING:
    from ai_edge_litert.interpreter import Interpreter, SignatureRunner

__all__ = ["open_interpreter", "quiet_stderr"]


def open_interpreter(
    path: str, num_threads: int | None = None
) -> tuple[Interpreter, SignatureRunner]:
    """Return the LiteRT interpreter of a file and the runner of its `serving_default`.

    Raises:
        UserError: If it is not a TFLite model with the signature `serving_default`.
    """
    from ai_edge_litert import interpreter as litert  # late: only TFLite needs it

    if not os.path.isfile(path):
        raise UserError(f"{path}: no such file; expected a TFLite model")
    try:
        with quiet_stderr():
            interpreter = litert.Interpreter(model_path=path, num_threads=num_threads)
            if _breaks_xnnpack(interpreter):
                interpreter = litert.Interpreter(
                    model_path=path,
                    num_threads=num_threads,
                    experimental_op_resolver_type=(
                        litert.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
                    ),
                )
        return interpreter, interpreter.get_signature_runner(SIGNATURE)
    except (ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"{path}: not a TFLite model with the signature {SIGNATURE!r}: {reason}"
        ) from None


def _breaks_xnnpack(interpreter: Interpreter) -> bool:
    """Return whether a file has int8 depthwise filters of nine taps in one row.

    XNNPACK of LiteRT 2.3 writes past its memory with them and ends the process.
    """
    return any(
        details["dtype"] == np.int8 and sorted(details["shape"][:3]) == [1, 1, 9]
        for details in interpreter.get_tensor_details()
    )


@contextlib.contextmanager
def quiet_stderr() -> Iterator[None]:
    """Keep native messages of TFLite from the terminal; print them all if something fails."""
    sys.stderr.flush()
    with tempfile.TemporaryFile() as chatter:
        saved = os.dup(2)
        os.dup2(chatter.fileno(), 2)
        try:
            yield
        except UserError:
            raise  # its message is enough
        except BaseException:
            chatter.seek(0)
            os.write(saved, chatter.read())
            raise
        finally:
            os.dup2(saved, 2)
            os.close(saved)
