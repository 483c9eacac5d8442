"""The description of the interface, and Schemathesis: does the server keep to it, whatever is sent?"""

from __future__ import annotations

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis.strategies import one_of
from schemathesis import GenerationMode
from schemathesis.checks import load_all_checks
from schemathesis.specs.openapi import checks
from tests.server.running import Running

from modelwright.inference.engine import Engine
from modelwright.server.app import ENDPOINTS
from modelwright.server.models import Loaded, Source

load_all_checks()
CHECKS = [
    schemathesis.checks.not_a_server_error,
    checks.content_type_conformance,
    checks.negative_data_rejection,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
    checks.status_code_conformance,
    checks.unsupported_method,
]


@pytest.fixture(scope="module")
def url(model, tokenizer):
    source = Source("tiny", lambda: Loaded(Engine(model, tokenizer, max_slots=8, max_length=64), "abc"))
    with Running([source], (), queue_limit=64) as server:
        assert server.loaded.wait(30)
        yield server.url


@pytest.fixture(scope="module")
def described(url):
    return schemathesis.openapi.from_url(f"{url}/openapi.json")


@pytest.mark.parametrize("endpoint", [e for e in ENDPOINTS if "{" not in e.path], ids=lambda e: e.path)
def test_the_server_keeps_to_its_description(described, endpoint):
    """Requests that the description allows, and requests that it does not (its plugin for pytest 9 is
    broken: hypothesis draws from its strategies here)."""
    operation = described[endpoint.path][endpoint.method]
    allowed = operation.as_strategy(generation_mode=GenerationMode.POSITIVE).map(of_our_model)
    forbidden = operation.as_strategy(generation_mode=GenerationMode.NEGATIVE) if endpoint.asks else allowed

    @settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(one_of(allowed, forbidden))
    def keeps(case):
        case.call_and_validate(checks=CHECKS, timeout=20)

    keeps()


def of_our_model(case):
    """The same request for a model that there is: a name by chance would be refused before all else."""
    if isinstance(case.body, dict):
        case.body["model"] = "tiny"
    return case


def test_every_route_is_described(url):
    with httpx.Client(base_url=url) as http:
        told = http.get("/openapi.json").json()
        listed = http.get("/", headers={"accept": "application/json"}).json()["endpoints"]
    described = {f"{method.upper()} {path}" for path, found in told["paths"].items() for method in found}
    assert described == {*listed, "GET /"}
    for found in told["paths"].values():
        for method, operation in found.items():
            assert ("requestBody" in operation) == (method == "post")
    fields = told["components"]["schemas"]["ChatRequest"]["properties"]
    assert {"messages", "logit_bias", "response_format", "tools", "top_k"} <= set(fields)
