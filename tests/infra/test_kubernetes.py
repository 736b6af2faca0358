"""Every Kubernetes file is one that a cluster would take, as far as schemas can tell.

kubernetes-validate holds the schemas of the core kinds. Those of Kubeflow Trainer are custom; what
we use of them is in `kubeflow_trainer.schema.json`, and the pods inside are core kinds again: the
Job that the controller would make of a TrainJob and its runtime is put together and validated.
"""

import copy
import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
from ruamel.yaml import YAML
from torch.distributed.run import get_args_parser

FOLDER = Path(__file__).parents[2] / "infra/kubernetes"
TRAINER_SCHEMA = json.loads(Path(__file__).with_name("kubeflow_trainer.schema.json").read_text())
CORE_FILES = ("namespace.yaml", "volume.yaml", "prepare-job.yaml")
KUBERNETES_VERSIONS = ("1.31", "1.37")  # podFailurePolicy is stable since 1.31; the newest known
STARTED_EACH_TIME = {"prepare-job.yaml", "train-job.yaml"}

Document = dict[str, Any]


def read(name: str) -> Document:
    document: Document = YAML(typ="safe").load((FOLDER / name).read_text())
    return document


def changed(document: Document, path: tuple[str | int, ...], value: object) -> Document:
    """A copy with one value replaced, or added."""
    copied = place = copy.deepcopy(document)
    for key in path[:-1]:
        place = place[key]  # type: ignore[index]  # a path may also lead through lists
    place[path[-1]] = value  # type: ignore[index]
    return copied


def controller_job(train_job: Document, runtime: Document) -> Document:
    """The Job that Kubeflow's controller makes of the two, for what we use of them."""
    trainer = train_job["spec"]["trainer"]
    template = runtime["spec"]["template"]["spec"]["replicatedJobs"][0]["template"]
    job = copy.deepcopy(template["spec"])
    num_nodes = trainer["numNodes"]
    job |= {"parallelism": num_nodes, "completions": num_nodes, "completionMode": "Indexed"}
    container = job["template"]["spec"]["containers"][0]
    container["resources"] = trainer["resourcesPerNode"]
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "train"}, "spec": job}


def all_pods() -> dict[str, Document]:
    jobs = {
        "train-job.yaml": controller_job(read("train-job.yaml"), read("training-runtime.yaml")),
        "prepare-job.yaml": read("prepare-job.yaml"),
    }
    return {name: job["spec"]["template"]["spec"] for name, job in jobs.items()}


@pytest.mark.parametrize("version", KUBERNETES_VERSIONS)
@pytest.mark.parametrize("name", CORE_FILES)
def test_a_core_kind_is_valid(name: str, version: str):
    kubernetes_validate.validate(read(name), version, strict=True)


@pytest.mark.parametrize("version", KUBERNETES_VERSIONS)
def test_the_job_that_the_controller_makes_is_valid(version: str):
    job = controller_job(read("train-job.yaml"), read("training-runtime.yaml"))
    kubernetes_validate.validate(job, version, strict=True)


@pytest.mark.parametrize("name", ["train-job.yaml", "training-runtime.yaml"])
def test_a_kind_of_kubeflow_is_valid(name: str):
    jsonschema.validate(read(name), TRAINER_SCHEMA)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("spec", "accessMode"), ["ReadWriteMany"]),  # an unknown name
        (("spec", "accessModes"), "ReadWriteMany"),  # not a list
        (("spec", "resources", "requests"), ["100Gi"]),
    ],
)
def test_a_broken_claim_is_refused(path: tuple[str | int, ...], value: object):
    broken = changed(read("volume.yaml"), path, value)
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, KUBERNETES_VERSIONS[-1], strict=True)


POD = ("spec", "template", "spec", "replicatedJobs", 0, "template", "spec", "template", "spec")


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ((*POD, "terminationGracePeriod"), 120),
        ((*POD, "containers", 0, "command"), "torchrun"),
        ((*POD, "containers", 0, "securityContext", "capabilities", "drop"), "ALL"),
        ((*POD, "volumes", 0, "persistentVolumeClaim"), {"name": "vivero-workspace"}),
        ((*POD[:-2], "podFailurePolicy"), {"rules": [{"onPodConditions": []}]}),
    ],
)
def test_a_broken_pod_of_the_runtime_is_refused(path: tuple[str | int, ...], value: object):
    job = controller_job(
        read("train-job.yaml"), changed(read("training-runtime.yaml"), path, value)
    )
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(job, KUBERNETES_VERSIONS[-1], strict=True)


@pytest.mark.parametrize(
    ("name", "path", "value"),
    [
        ("train-job.yaml", ("apiVersion",), "kubeflow.org/v1"),
        ("train-job.yaml", ("metadata", "name"), "Vivero_Train"),
        ("train-job.yaml", ("spec", "trainingRuntimeRef"), {"name": "vivero-torch"}),
        ("train-job.yaml", ("spec", "trainer", "numNodes"), "2"),
        ("train-job.yaml", ("spec", "trainer", "numNodes"), 0),
        ("training-runtime.yaml", ("spec", "mlPolicy", "torch", "numProcPerNode"), "all"),
        ("training-runtime.yaml", ("spec", "template", "spec", "replicatedJobs", 0, "name"), "n"),
        ("training-runtime.yaml", ("spec", "podTemplate"), {}),
    ],
)
def test_a_broken_kind_of_kubeflow_is_refused(
    name: str, path: tuple[str | int, ...], value: object
):
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(changed(read(name), path, value), TRAINER_SCHEMA)


def test_every_file_is_in_the_kustomization_or_started_each_time():
    kustomization = read("kustomization.yaml")
    files = {path.name for path in FOLDER.glob("*.yaml")} - {"kustomization.yaml"}
    assert set(kustomization["resources"]) == files - STARTED_EACH_TIME
    assert files == {*CORE_FILES, "train-job.yaml", "training-runtime.yaml"}


def test_the_files_name_each_other_rightly():
    kustomization, train_job = read("kustomization.yaml"), read("train-job.yaml")
    namespace = read("namespace.yaml")["metadata"]["name"]
    assert kustomization["namespace"] == namespace
    for name in STARTED_EACH_TIME:
        assert read(name)["metadata"]["namespace"] == namespace
    runtime = read("training-runtime.yaml")
    assert train_job["spec"]["runtimeRef"]["name"] == runtime["metadata"]["name"]
    settings = {made["name"] for made in kustomization["configMapGenerator"]}
    claim = read("volume.yaml")["metadata"]["name"]
    for pod in all_pods().values():
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        assert volumes["workspace"]["persistentVolumeClaim"]["claimName"] == claim
        (container,) = pod["containers"]
        assert {mount["name"] for mount in container["volumeMounts"]} == set(volumes)
        assert container["envFrom"][0]["configMapRef"]["name"] in settings
    assert len({pod["containers"][0]["image"] for pod in all_pods().values()}) == 1


def test_no_pod_can_become_root():
    for pod in all_pods().values():
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] > 0
        own = pod["containers"][0]["securityContext"]
        assert own["allowPrivilegeEscalation"] is False
        assert own["capabilities"] == {"drop": ["ALL"]}


def test_torchrun_takes_the_options_of_the_runtime_and_starts_the_stage():
    pod = all_pods()["train-job.yaml"]
    program, *options = pod["containers"][0]["command"]
    got = get_args_parser().parse_args(options)
    assert program == "torchrun"
    assert (got.module, got.training_script) == (True, "vivero.stages.train")
    assert got.rdzv_backend == "c10d"
    assert got.shutdown_timeout < pod["terminationGracePeriodSeconds"]


def test_no_file_holds_a_secret():
    text = "".join(path.read_text() for path in FOLDER.glob("*.yaml"))
    assert not re.search(r"kind: Secret|(?i:password|secret_access_key|token)\s*[=:]", text)
