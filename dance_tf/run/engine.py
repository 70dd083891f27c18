"""Engines that run independent tasks: this process, processes of this machine, or Ray.

A task is a function of a module, taken by its name, and JSON data; its result is JSON data
too. Tasks keep what they have done in folders of their own, so that one whose process was
lost goes on from there, wherever it is begun again. Results come to the process that asked,
which alone writes what is made of them.
"""

from __future__ import annotations

import concurrent.futures
import concurrent.futures.process
import contextlib
import dataclasses
import functools
import importlib
import importlib.util
import json
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence

from dance_tf.errors import Interrupted, UserError
from dance_tf.files import Json, strict_data
from dance_tf.run import run_info, terminal

__all__ = ["HERE", "NUM_RETRIES", "Engine"]

#: Lost processes in a row, without a finished task between them, after which a run ends.
NUM_RETRIES = 5

_POLL_S = 0.5

#: Variables of the asking process that decide how a sum is rounded or what is printed.
_ENVIRONMENT = ("TF_NUM_INTEROP_THREADS", "TF_CPP_MIN_LOG_LEVEL", "TF_ENABLE_ONEDNN_OPTS")


@dataclasses.dataclass
class Engine:
    """Place where tasks run, and how many at a time; `with` ends what it has started.

    >>> Engine().is_here, Engine(num_jobs=2).is_here
    (True, False)
    """

    kind: str = "local"  # or "ray"
    num_jobs: int = 1  # tasks at the same time; 0 on Ray: as many as it has room for
    ray_address: str | None = None  # of a running cluster; None: one that ends with the run
    cpus_per_task: float = 1.0  # of Ray
    gpus_per_task: float = 0.0  # of Ray, which shows a task those GPUs alone
    on_start: Callable[[], None] | None = None  # called first by each other process, by its name

    def __post_init__(self) -> None:
        if self.kind == "ray" and importlib.util.find_spec("ray") is None:
            raise UserError(
                "--engine=ray needs Ray, which is not installed: pip install 'dance_tf[ray]'"
            )
        self._open = contextlib.ExitStack()  # what has been started
        self._pool: concurrent.futures.ProcessPoolExecutor | None = None

    @property
    def is_here(self) -> bool:
        """Whether tasks run in this process, one after the other."""
        return self.kind == "local" and self.num_jobs == 1

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        self._close(is_orderly=kind is None)

    def prepare(self, task: Callable[[Json], Json], argument: Json) -> None:
        """Let each process of this machine run a task whose result nobody needs, and not wait."""
        if self.kind == "local" and not self.is_here:
            call, text = self._call_of(task), json.dumps(strict_data(argument))
            for _ in range(self.num_jobs):
                self._processes().submit(call, text)

    def run(
        self, task: Callable[[Json], Json], arguments: Sequence[Json]
    ) -> Generator[tuple[int, Json]]:
        """Yield (number of the argument, result) as tasks finish.

        What is still running when the caller stops asking is ended.

        Args:
            task: Function on the top level of a module.
            arguments: JSON data, one for each task.
        Raises:
            UserError: From a task; or if processes are lost again and again, or Ray is not to
                be reached.
            Interrupted: If a task has been asked to stop.
        """
        if self.is_here or not arguments:
            for number, argument in enumerate(arguments):
                yield number, task(argument)
            return
        texts = [json.dumps(strict_data(argument)) for argument in arguments]
        run = self._on_ray if self.kind == "ray" else self._in_processes
        with contextlib.closing(run(self._call_of(task), texts)) as found:
            for number, text in found:
                outcome = json.loads(text)
                if "refusal" in outcome:
                    raise UserError(outcome["refusal"])
                if "signum" in outcome:
                    raise Interrupted(outcome["signum"])
                yield number, outcome["result"]

    def _call_of(self, task: Callable[[Json], Json]) -> Callable[[str], str]:
        """Return the function of JSON texts that runs a task in another process."""
        on_start = None if self.on_start is None else _name(self.on_start)
        # Threads decide how sums are rounded, so all processes have as many.
        environment = {"TF_NUM_INTRAOP_THREADS": str(run_info.num_threads())}
        environment |= {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
        return functools.partial(_call, _name(task), on_start, environment, os.getcwd())

    def _in_processes(
        self, call: Callable[[str], str], texts: Sequence[str]
    ) -> Generator[tuple[int, str]]:
        left, num_lost = dict(enumerate(texts)), 0
        while left:
            try:
                pending = {self._processes().submit(call, text): n for n, text in left.items()}
                for done in concurrent.futures.as_completed(pending):
                    try:
                        text = done.result()
                    except concurrent.futures.process.BrokenProcessPool:
                        continue  # others may have finished before
                    num_lost = 0
                    del left[pending[done]]
                    yield pending[done], text
            except concurrent.futures.process.BrokenProcessPool:
                pass  # before all had been submitted
            except BaseException:
                self._close(is_orderly=False)
                raise
            if left:
                self._close(is_orderly=False)
                num_lost += 1
                if num_lost > NUM_RETRIES:
                    raise UserError(_lost(num_lost))
                terminal.warn(
                    f"a process was ended from outside; {len(left)} tasks are left, and those"
                    " that had begun go on from where they were saved"
                )

    def _processes(self) -> concurrent.futures.ProcessPoolExecutor:
        """Return the pool of processes, which is begun anew after it was closed."""
        if self._pool is None:
            # A forked process would inherit TensorFlow's threads in an unknown state.
            spawn = multiprocessing.get_context("spawn")
            self._others = set(multiprocessing.active_children())
            self._pool = concurrent.futures.ProcessPoolExecutor(
                self.num_jobs, spawn, _watch, (os.getpid(),)
            )
        return self._pool

    def _close(self, is_orderly: bool) -> None:
        """End the processes; without order they are asked to stop where they are."""
        pool, self._pool = self._pool, None
        if pool is not None:
            if not is_orderly:
                for process in set(multiprocessing.active_children()) - self._others:
                    process.terminate()
            pool.shutdown(cancel_futures=True)
        self._open.close()

    def _on_ray(
        self, call: Callable[[str], str], texts: Sequence[str]
    ) -> Generator[tuple[int, str]]:
        import ray

        if not ray.is_initialized():
            self._open.enter_context(_joined(self.ray_address, self.num_jobs))
        remote = ray.remote(_on_worker).options(
            num_cpus=self.cpus_per_task,
            num_gpus=self.gpus_per_task,
            max_retries=NUM_RETRIES,
        )
        waiting = list(enumerate(texts))[::-1]
        pending: dict[ray.ObjectRef, int] = {}
        try:
            while waiting or pending:
                while waiting and (not self.num_jobs or len(pending) < self.num_jobs):
                    number, text = waiting.pop()
                    pending[remote.remote(call, text)] = number
                ready, _ = ray.wait(list(pending), num_returns=1, timeout=_POLL_S)
                for reference in ready:
                    number = pending.pop(reference)
                    try:
                        text = ray.get(reference)
                    except ray.exceptions.RayTaskError:  # a mistake in the program
                        raise
                    except ray.exceptions.RayError as error:
                        raise UserError(f"{_lost(NUM_RETRIES + 1)} ({error})") from None
                    yield number, text
        finally:
            for reference in pending:
                ray.cancel(reference, force=True)


#: Engine of this process.
HERE = Engine()


def _lost(num: int) -> str:
    return (
        f"processes of tasks were ended from outside {num} times in a row; the system may lack"
        " memory: fewer --jobs take less"
    )


def _name(function: Callable[..., object]) -> str:
    return f"{function.__module__}:{function.__qualname__}"


def _function(name: str) -> Callable[..., Json]:
    module, _, function = name.partition(":")
    return getattr(importlib.import_module(module), function)


@functools.cache
def _begin(on_start: str | None) -> None:
    if on_start is not None:
        _function(on_start)()


def _call(
    task: str, on_start: str | None, environment: dict[str, str], folder: str, text: str
) -> str:
    """Run a task in a process of an engine; return its outcome as JSON text."""
    os.environ.update(environment)  # Nothing here has imported TensorFlow before the first task.
    with contextlib.suppress(OSError):  # Paths may be relative, and the folder one of this machine.
        os.chdir(folder)
    terminal.set_verbosity(-1)
    _begin(on_start)
    try:
        return json.dumps({"result": strict_data(_function(task)(json.loads(text)))})
    except UserError as error:
        return json.dumps({"refusal": str(error)})
    except Interrupted as error:
        return json.dumps({"signum": error.signum})


def _on_worker(call: Callable[[str], str], text: str) -> str:
    """Run a task in a process of Ray, which knows functions of installed modules by name."""
    return call(text)


def _watch(parent: int) -> None:
    """Let this process end with the one that started it, however that one ends."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_POLL_S)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer.


@contextlib.contextmanager
def _joined(address: str | None, num_jobs: int) -> Iterator[None]:
    """Connect to a cluster of Ray, or start one on this machine that ends with the body."""
    import ray

    handler = signal.getsignal(signal.SIGTERM)  # Ray puts its own in its place.
    options = {} if address else {"num_cpus": num_jobs or None, "include_dashboard": False}
    try:
        ray.init(address=address or "local", logging_level="ERROR", **options)
    except (ConnectionError, RuntimeError, ValueError) as error:
        line = str(error).partition("\n")[0]
        raise UserError(f"--ray_address={address or ''}: no cluster of Ray: {line}") from None
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler)
    try:
        yield
    finally:
        ray.shutdown()
