"""What was found in a stream, as JSON and in lines for people."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from replicator.wire.verify import Problem, VerifyReport


def report_as_json(report: VerifyReport) -> dict[str, Any]:
    """All numbers of the report, for json.dumps."""
    return {
        "format": report.format.value if report.format else None,
        "inner_format": report.inner_format.value if report.inner_format else None,
        "kind": report.kind.value if report.kind else None,
        "version": report.version,
        "guest": report.guest.name if report.guest else None,
        "xen_version": report.xen_version,
        "is_qemu_recording": report.is_qemu_recording,
        "checkpoints": report.checkpoints,
        "is_complete": report.is_complete,
        "last_whole_end": report.usable_bytes,
        "last_record_end": report.stream_bytes,
        "discarded_bytes": report.discarded_bytes,
        "records": dict(report.records),
        "page_entries": report.page_entries,
        "data_pages": report.data_pages,
        "page_types": {kind.name: count for kind, count in report.page_types.items()},
        "device_state_bytes": report.device_state_bytes,
        "tmem_pages_dropped": report.tmem_pages_dropped,
        "cut": str(report.cut) if report.cut else None,
        "problem_count": report.problem_count,
        "problems": [_problem_as_json(problem) for problem in report.problems],
    }


def _problem_as_json(problem: Problem) -> dict[str, Any]:
    error = problem.error
    return {
        "offset": error.offset,
        "record": error.record,
        "error": type(error).__name__,
        "message": str(error),
        "hint": error.hint,
        "is_forgiven": problem.is_forgiven,
    }


def describe_stream(report: VerifyReport) -> str:
    """Format, kind and guest in one line."""
    if report.format is None:
        return "no stream: there are no bytes"
    formats = [report.format.value]
    if report.inner_format not in (None, report.format):
        formats.append(report.inner_format.value)
    if report.version is not None and "libxc" not in formats[-1] and "legacy" not in formats[-1]:
        formats.append(f"libxc version {report.version}")
    words = [" > ".join(formats)]
    if report.kind is not None:
        words.append(f"{report.kind.value} stream")
    if report.is_qemu_recording:
        words.append("recorded QEMU guest")
    elif report.guest is not None:
        words.append(f"{report.guest.name} guest")
    if report.xen_version is not None and report.xen_version[0]:
        words.append("Xen {}.{}".format(*report.xen_version))
    return ", ".join(words)


def describe_verdict(report: VerifyReport) -> Iterator[str]:
    """Every problem in a line, then what the stream is, where it ends, and the verdict."""
    for problem in report.problems:
        name = type(problem.error).__name__
        yield f"{name}: {problem.error}" + (" (a receiver forgives it)" if problem.is_forgiven else "")
        if problem.error.hint:
            yield f"  hint: {problem.error.hint}"
    if report.problem_count > len(report.problems):
        yield f"{report.problem_count - len(report.problems)} more problems"
    if report.records:
        yield from _describe_content(report)
    yield _verdict(report)


def _describe_content(report: VerifyReport) -> Iterator[str]:
    yield describe_stream(report)
    pages = f"{report.page_entries} page entries, {report.data_pages} with data"
    yield f"{sum(report.records.values())} records, {pages}"
    if report.tmem_pages_dropped:
        yield f"{report.tmem_pages_dropped} tmem pages dropped"
    if report.checkpoints:
        last = f"the last one ends at {report.usable_bytes}"
        yield f"{report.checkpoints} whole checkpoints, {last}; the last whole record at {report.stream_bytes}"


def _verdict(report: VerifyReport) -> str:
    if report.problem_count:
        return f"not valid: {report.problem_count} problem{'s' if report.problem_count > 1 else ''}"
    if report.is_complete:
        return f"valid, {report.stream_bytes} bytes"
    behind = (
        f", {report.discarded_bytes} bytes of an unfinished round follow" if report.discarded_bytes else ""
    )
    said = report.cut or f"the bytes end without END at offset {report.stream_bytes}"
    if not report.checkpoints:
        return f"cut: {said}; there is no whole checkpoint"
    return f"cut: valid up to the last whole checkpoint{behind}: {said}"
