"""Co-search of a network and its accelerator by gradient: schedule, checkpoints, history, result.

Warm-up trains the weights on uniformly drawn paths. Then weight steps and architecture
steps alternate, and the argmax of the logits is the architecture. The evaluator steers
the search; what is reported at the end comes from the cost table. Source: DANCE (2020);
the exact re-evaluation and the exact accelerator at the end are ours.
"""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from dance_tf.config import SearchConfig
from dance_tf.errors import Interrupted, UserError
from dance_tf.files import Json
from dance_tf.run import terminal
from dance_tf.run.checkpoints import CheckpointFolder, check_history
from dance_tf.run.folder_lock import owned
from dance_tf.run.surroundings import StopSignals
from dance_tf.search.collapse import CollapseGuard, describe, zero_weight
from dance_tf.search.judge import Judge, look_up
from dance_tf.search.limits import LimitKeeper
from dance_tf.search.problem import Lambda2Schedule, SearchProblem
from dance_tf.search.result import PHASES, SearchRecord, SearchResult, op_counts, read_records
from dance_tf.search.search_log import open_writers, shown_costs
from dance_tf.search.steps import Batches, CoSearchSteps, SearchPlan, batches, stateless_seed
from dance_tf.structs import METRICS
from dance_tf.supernet.supernet import Supernet, derive

__all__ = ["DanceSearch"]


class DanceSearch:
    """Search by gradient.

    Args:
        config: Schedule, objective, limits and learning rates.
        seed: Seed of the weights, the paths and the order of images.
        output_dir: Folder of the history, the checkpoints and the TensorBoard logs; None
            writes nothing.
        is_resuming: Whether to go on from the newest checkpoint of `output_dir`, if there is
            one.
        stop: Signals to honour at the next step boundary.

    >>> from dance_tf.config import SearchConfig
    >>> config = SearchConfig(epochs=30, warmup_epochs=10, lambda_2=0.05, max_latency_ms=2.0)
    >>> search = DanceSearch(config, seed=1, output_dir="runs/mine")
    >>> result = search.search(problem)  # doctest: +SKIP
    """

    def __init__(
        self,
        config: SearchConfig,
        *,
        seed: int = 0,
        output_dir: str | None = None,
        is_resuming: bool = False,
        stop: StopSignals | None = None,
    ) -> None:
        self._config, self._seed, self._output_dir = config, seed, output_dir
        self._is_resuming, self._stop = is_resuming, stop

    def search(
        self,
        problem: SearchProblem,
        on_step: Callable[[SearchRecord], None] | None = None,
        *,
        judge: Judge | None = None,
    ) -> SearchResult:
        """Search and return the result, without accuracy: nothing is retrained here.

        Args:
            problem: Space, table, evaluator and images; its supernet, if it has one, is
                trained in place.
            on_step: Function called with each history record, every `log_every` steps.
            judge: Judge of this config and this problem, if there is one already.
        Raises:
            UserError: If a loss is not finite, a checkpoint is damaged, the schedule does not
                fit the data, or no network keeps to the limits on any accelerator.
            Interrupted: After a signal; a checkpoint has been written.
        """
        judge = judge or Judge(self._config, problem)
        if judge.fixed_architecture is not None:
            return look_up(judge, judge.fixed_architecture, self._seed)
        folder = self._output_dir
        with contextlib.nullcontext() if folder is None else owned(folder):
            return _Run(self._config, problem, judge, self._seed).run(
                folder, self._is_resuming, self._stop, on_step
            )


class _Run:
    """One search from its first step (or its checkpoint) to its result."""

    def __init__(
        self, config: SearchConfig, problem: SearchProblem, judge: Judge, seed: int
    ) -> None:
        self.config, self.problem, self.judge, self.seed = config, problem, judge, seed
        self.plan = SearchPlan.of(config, problem.dataset)
        self.lambda_2 = Lambda2Schedule(
            config.lambda_2, config.lambda_2_warmup_epochs * self.plan.steps_per_epoch
        )
        self.supernet = problem.supernet or Supernet(problem.space, seed, config.supernet)
        self.steps = CoSearchSteps(
            supernet=self.supernet,
            evaluator=self.judge.evaluator,
            objective=self.judge.objective,
            reference=problem.table.reference,
            config=config,
            total_steps=self.plan.total_steps,
            warmup_steps=self.plan.warmup_steps,
        )
        self.keeper = None
        if self.judge.limits is not None and config.limits == "gradient":
            self.keeper = LimitKeeper(
                self.supernet,
                self.judge.evaluator,
                self.judge.limits,
                self.judge.objective.vector,
                config,
            )
        self.guard = CollapseGuard(
            problem.space,
            config,
            self.plan.num_architecture_steps(self.plan.total_steps),
            self.supernet.arch_logits.numpy(),
            is_limited=self.judge.limits is not None,
        )
        self.is_frozen = config.supernet_weights == "frozen"
        self.first_step = self.plan.warmup_steps if problem.is_warm else 0
        self.step = self.first_step
        self.steps.weight_optimizer.iterations.assign(self.first_step)
        self.sums: dict[str, list[float]] = {}  # name -> [sum, count] since the last record
        self.elapsed_s = 0.0

    def run(
        self,
        output_dir: str | None,
        is_resuming: bool,
        stop: StopSignals | None,
        on_step: Callable[[SearchRecord], None] | None,
    ) -> SearchResult:
        folder = None
        if output_dir is not None:
            folder = CheckpointFolder(
                os.path.join(output_dir, "checkpoints"),
                supernet=self.supernet,
                weight_optimizer=self.steps.weight_optimizer,
                arch_optimizer=self.steps.arch_optimizer,
            )
            if is_resuming:
                self._resume(folder, os.path.join(output_dir, "history.jsonl"))
        records: list[SearchRecord] = []
        if self.step < self.plan.total_steps:
            with contextlib.ExitStack() as stack:
                listeners = [records.append, *([on_step] if on_step else [])]
                if output_dir is not None:
                    resume_step = self.step if is_resuming else None
                    writers = open_writers(output_dir, self.supernet, resume_step)
                    listeners += stack.enter_context(writers)
                stack.enter_context(stop.deferred() if stop else contextlib.nullcontext())
                self._loop(folder, stop, listeners)
        if output_dir is not None:
            path = os.path.join(output_dir, "history.jsonl")
            records = list(read_records(path)) if os.path.exists(path) else []
        return self._result(tuple(records))

    def _loop(
        self,
        folder: CheckpointFolder | None,
        stop: StopSignals | None,
        listeners: list[Callable[[SearchRecord], None]],
    ) -> None:
        plan, dataset = self.plan, self.problem.dataset
        train = batches(
            dataset,
            "train",
            batch_size=plan.train_batch_size,
            seed=self.seed,
            start=self.step,
        )
        held_out = batches(
            dataset,
            "architecture",
            batch_size=plan.architecture_batch_size,
            seed=self.seed,
            start=plan.num_architecture_steps(self.step),
        )
        began = time.monotonic() - self.elapsed_s
        progress, record = self._progress(), None
        try:
            while self.step < plan.total_steps:
                step = self.step + 1
                if step == plan.warmup_steps + 1:
                    progress.close()
                    progress = self._progress()
                shown = self._one_step(step, train, held_out)
                self.step = step
                self.elapsed_s = time.monotonic() - began
                if step % self.config.log_every == 0 or step == plan.total_steps:
                    record = self._record()
                    for listener in listeners:
                        listener(record)
                progress.update(step, **shown, **shown_costs(record))
                signum = stop.requested if stop else None
                if folder and (signum is not None or step % plan.steps_per_epoch == 0):
                    folder.save(step, self._state())
                if signum is not None:
                    raise Interrupted(signum)
        finally:
            progress.close()

    def _state(self) -> dict[str, Json]:
        """Return the state that a checkpoint holds beside tensors, as JSON data."""
        state: dict[str, Json] = {"sums": self.sums, "elapsed_s": self.elapsed_s}
        state["guard"] = self.guard.state()
        if self.keeper is not None:
            state["limit_delta"] = self.keeper.delta
        return state

    def _resume(self, folder: CheckpointFolder, history: str) -> None:
        """Go on from the newest checkpoint, if there is one."""
        plan, every, first = self.plan, self.config.log_every, self.first_step
        total = plan.total_steps
        restored = folder.restore()
        check_history(
            history,
            restored and restored[0],
            phases=PHASES,
            first_save=(first // plan.steps_per_epoch + 1) * plan.steps_per_epoch,
            due=[s for s in range(first + 1, total + 1) if s % every == 0 or s == total],
        )
        if restored is None:
            return
        self.step, state = restored
        self.sums, self.elapsed_s = state["sums"], state["elapsed_s"]
        self.guard.restore(state["guard"])
        if self.keeper is not None:
            self.keeper.delta = state["limit_delta"]

    def _progress(self) -> terminal.ProgressLine:
        """Return the progress line of the phase that the next step belongs to."""
        phase = self.plan.phase(self.step + 1)
        end = self.plan.warmup_steps if phase == "warmup" else self.plan.total_steps
        return terminal.ProgressLine(phase, end, start_step=self.step)

    def _one_step(self, step: int, train: Batches, held_out: Batches) -> dict[str, float]:
        """Do weight step number `step`, unless weights are frozen, and what may follow it."""
        plan, seed = self.plan, self.seed
        shown = {}
        if not self.is_frozen:
            path_seed = stateless_seed(seed, "weight_path", step)
            op_indices = self.steps.sample_path(path_seed, plan.phase(step) == "warmup")
            cross_entropy, accuracy = self.steps.weight_step(*next(train), op_indices)
            shown["loss"] = self._finite(cross_entropy, step, "the loss on train")
            self._add(cross_entropy=shown["loss"], accuracy=float(accuracy))
        if plan.has_architecture_step(step):
            lambda_2 = self.lambda_2(step - plan.warmup_steps) * self.guard.factor
            before = self.supernet.arch_logits.numpy()
            cross_entropy, cost = self.steps.architecture_step(
                *next(held_out),
                tf.constant(stateless_seed(seed, "architecture_path", step)),
                tf.constant(lambda_2, tf.float32),
            )
            shown["held_out_loss"] = self._finite(cross_entropy, step, "the held-out loss")
            shown["objective"] = self._finite(cost, step, "the predicted objective")
            # Losses may be finite where their gradient is not.
            self._finite(np.sum(self.supernet.arch_logits), step, "an architecture parameter")
            self._add(
                architecture_cross_entropy=shown["held_out_loss"],
                objective=shown["objective"],
                lambda_2=lambda_2,
            )
            if self.keeper is not None:
                is_altered, excess = self.keeper.keep(before)
                self._add(altered_share=float(is_altered), limit_excess=excess)
            self._guard(plan.num_architecture_steps(step))
        return shown

    def _guard(self, num_done: int) -> None:
        """Say so where the search is collapsing, and start its architecture anew."""
        collapse = self.guard.check(num_done, self.supernet.arch_logits.numpy())
        if collapse is None:
            return
        terminal.note(f"search: {describe(collapse)}")
        if collapse["is_restarted"]:
            self.steps.restart_architecture(self.guard.start_logits)

    def _finite(self, value: tf.Tensor | np.ndarray, step: int, what: str) -> float:
        number = float(value)
        if not math.isfinite(number):
            raise UserError(
                f"search stopped at step {step}: {what} is {number}; lower"
                f" search.weight_learning_rate ({self.config.weight_learning_rate:g}) or"
                f" search.arch_learning_rate ({self.config.arch_learning_rate:g})"
            )
        return number

    def _add(self, **values: float) -> None:
        for name, value in values.items():
            total, count = self.sums.get(name, (0.0, 0))
            self.sums[name] = [total + value, count + 1]

    def _record(self) -> SearchRecord:
        means = {name: total / count for name, (total, count) in self.sums.items()}
        self.sums = {}
        space = self.problem.space
        architecture = derive(self.supernet)
        index, predicted, exact = self.judge.evaluate(architecture)
        mixture = np.asarray(self.supernet.mixture_weights(), np.float64)
        entropy = -np.sum(mixture * np.log(np.where(mixture > 0, mixture, 1.0)), axis=-1)
        costs = {f"predicted_{name}": float(v) for name, v in zip(METRICS, predicted, strict=True)}
        costs |= {f"exact_{name}": float(v) for name, v in zip(METRICS, exact, strict=True)}
        return SearchRecord(
            step=self.step,
            epoch=self.plan.epoch(self.step),
            phase=self.plan.phase(self.step),
            cross_entropy=means.get("cross_entropy"),
            accuracy=means.get("accuracy"),
            architecture_cross_entropy=means.get("architecture_cross_entropy"),
            lambda_2=means.get("lambda_2"),
            objective=means.get("objective"),
            altered_share=means.get("altered_share"),
            limit_excess=means.get("limit_excess"),
            mixture_entropy=tuple(entropy.tolist()),
            ops=architecture.ops,
            zero_share=op_counts(space, architecture)[1],
            zero_weight=zero_weight(space, mixture),
            accelerator=self.problem.table.accelerators.decode(index),
            **costs,
        )

    def _result(self, history: tuple[SearchRecord, ...]) -> SearchResult:
        """Derive the architecture, within the limits, and cost it exactly."""
        derived = derive(self.supernet)
        logits = np.asarray(self.supernet.arch_logits, np.float64)
        architecture, lost = self.judge.repair(derived, logits)
        mask = self.problem.space.op_mask.tolist()
        return self.judge.result(
            architecture,
            limits=self.judge.limits_record(derived, architecture != derived, lost),
            collapses=tuple(self.guard.collapses),
            warnings=self._warnings(op_counts(self.problem.space, architecture)[1]),
            arch_logits=tuple(
                tuple(v if allowed else None for v, allowed in zip(row, allowed_ops, strict=True))
                for row, allowed_ops in zip(logits.tolist(), mask, strict=True)
            ),
            seed=self.seed,
            num_weight_steps=0 if self.is_frozen else self.plan.total_steps - self.first_step,
            num_architecture_steps=self.plan.num_architecture_steps(self.plan.total_steps),
            times={"search_s": self.elapsed_s},
            history=history,
        )

    def _warnings(self, zero_share: float) -> tuple[str, ...]:
        config, warnings = self.config, [describe(c) for c in self.guard.collapses]
        if zero_share > config.max_zero_share:
            warnings.append(
                f"{zero_share:.0%} of the skippable blocks are Zero, more than"
                f" search.max_zero_share ({config.max_zero_share:.0%}): for a deeper network"
                f" lower search.lambda_2 ({config.lambda_2:g}) or raise"
                " search.lambda_2_warmup_epochs"
            )
        return tuple(warnings)
