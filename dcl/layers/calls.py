"""How layers are called, for type checkers: `torch.nn.Module.__call__` returns Any, so nothing after a call was checked.

Each layer has the annotation `__call__: ...Call`; what runs is `torch.nn.Module.__call__`, and in it the layer's `forward`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, Protocol, TypedDict, TypeVar, Unpack, overload

from torch import Tensor

from dcl.frontends.constants import TensorLike
from dcl.outcome.solution import Solution

if TYPE_CHECKING:
    from dcl.layers.cone import ConeResult
    from dcl.layers.qp import QPResult

Y = TypeVar("Y")  # a tensor, or a dict, tuple or list of them


class CallOptions(TypedDict, total=False):
    """What a call takes besides its data."""

    solver_args: dict[str, object] | None
    warm_start: Solution | bool | None
    mu: float | Tensor | None
    straight_through: bool | None


class QPCall(Protocol):
    """The call of a `QPLayer`."""

    @overload
    def __call__(
        self,
        P: TensorLike | None,
        q: TensorLike,
        *,
        A: TensorLike | None = None,
        b: TensorLike | None = None,
        G: TensorLike | None = None,
        h: TensorLike | None = None,
        lb: TensorLike | None = None,
        ub: TensorLike | None = None,
        return_solution: Literal[False] = False,
        **options: Unpack[CallOptions],
    ) -> QPResult: ...

    @overload
    def __call__(
        self,
        P: TensorLike | None,
        q: TensorLike,
        *,
        A: TensorLike | None = None,
        b: TensorLike | None = None,
        G: TensorLike | None = None,
        h: TensorLike | None = None,
        lb: TensorLike | None = None,
        ub: TensorLike | None = None,
        return_solution: Literal[True],
        **options: Unpack[CallOptions],
    ) -> tuple[QPResult, Solution]: ...


class ConeCall(Protocol):
    """The call of a `ConeLayer`."""

    @overload
    def __call__(
        self,
        P: TensorLike | None,
        q: TensorLike,
        A: TensorLike,
        b: TensorLike,
        *,
        return_solution: Literal[False] = False,
        **options: Unpack[CallOptions],
    ) -> ConeResult: ...

    @overload
    def __call__(
        self,
        P: TensorLike | None,
        q: TensorLike,
        A: TensorLike,
        b: TensorLike,
        *,
        return_solution: Literal[True],
        **options: Unpack[CallOptions],
    ) -> tuple[ConeResult, Solution]: ...


class CvxpyCall(Protocol):
    """The call of a `CvxpyLayer`."""

    @overload
    def __call__(
        self,
        *params: TensorLike,
        solver_args: dict[str, object] | None = None,
        warm_start: Solution | bool | None = None,
        mu: float | Tensor | None = None,
        straight_through: bool | None = None,
        return_solution: Literal[False] = False,
        **named: TensorLike,
    ) -> tuple[Tensor, ...]: ...

    @overload
    def __call__(
        self,
        *params: TensorLike,
        solver_args: dict[str, object] | None = None,
        warm_start: Solution | bool | None = None,
        mu: float | Tensor | None = None,
        straight_through: bool | None = None,
        return_solution: Literal[True],
        **named: TensorLike,
    ) -> tuple[tuple[Tensor, ...], Solution]: ...


class ArgminCall(Protocol):
    """The call of an `ArgminLayer`: y in the structure of y0."""

    @overload
    def __call__(
        self,
        y0: Y,
        *params: Any,
        mu: float | Tensor | None = None,
        warm_start: Solution | None = None,
        return_solution: Literal[False] = False,
    ) -> Y: ...

    @overload
    def __call__(
        self,
        y0: Y,
        *params: Any,
        mu: float | Tensor | None = None,
        warm_start: Solution | None = None,
        return_solution: Literal[True],
    ) -> tuple[Y, Solution]: ...
