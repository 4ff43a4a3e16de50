"""Holds the manifests of a folder against the schemas of Kubernetes, and against each other: kubernetes.py FOLDER"""

import pathlib
import sys

import kubernetes_validate
import yaml

# The oldest for which they are meant, and the newest whose schemas are here.
VERSIONS = ["1.31", kubernetes_validate.latest_version()]

folder = pathlib.Path(sys.argv[1])
kustomization = yaml.safe_load((folder / "kustomization.yaml").read_text())
assert kustomization["images"][0]["newTag"] not in ("", "latest"), "an image without a version"
found = {}
for name in kustomization["resources"]:
    for resource in yaml.safe_load_all((folder / name).read_text()):
        for version in VERSIONS:
            kubernetes_validate.validate(resource, version, strict=True)
        assert "namespace" not in resource["metadata"], f"{name} is bound to a namespace"
        found[resource["kind"], resource["metadata"]["name"]] = resource
others = {"kustomization.yaml", "prometheus-adapter.yaml"}
assert {path.name for path in folder.glob("*.yaml")} == others | set(kustomization["resources"]), "a file nobody uses"

configs = {}
for made in kustomization["configMapGenerator"]:
    inside, _, file = made["files"][0].partition("=")
    configs[made["name"]] = (inside, (folder / file).read_text())


def of(kind):
    return {name: resource for (each, name), resource in found.items() if each == kind}


labels = {}
for name, deployment in of("Deployment").items():
    template = deployment["spec"]["template"]
    labels[name] = template["metadata"]["labels"]
    pod = template["spec"]
    assert deployment["spec"]["selector"]["matchLabels"] == labels[name], name
    assert pod["securityContext"]["runAsNonRoot"] and pod["automountServiceAccountToken"] is False, name
    assert pod["terminationGracePeriodSeconds"] > 20, f"{name} is killed before grace_ms is over"
    (container,) = pod["containers"]
    assert container["image"] == kustomization["images"][0]["name"], name
    assert container["livenessProbe"]["httpGet"]["path"] == "/healthz", name
    assert container["readinessProbe"]["httpGet"]["path"] == "/readyz", name
    safe = container["securityContext"]
    assert safe["readOnlyRootFilesystem"] and safe["capabilities"]["drop"] == ["ALL"], name
    assert not safe["allowPrivilegeEscalation"] and "memory" in container["resources"]["limits"], name
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    assert mounts.keys() == volumes.keys(), name
    inside, text = configs[volumes["config"]["configMap"]["name"]]
    assert f"{mounts['config']}/{inside}" == "/etc/syncline/syncline.toml", name
    for line in text.splitlines():
        if "_file =" in line:
            assert f'"{mounts["secrets"]}/' in line, f"{name}: {line} is not where the secrets are"
    (port,) = container["ports"]
    assert f'http = "0.0.0.0:{port["containerPort"]}"' in text, f"{name} answers at another port"
    for variable in container["env"]:
        assert "value" in variable or "valueFrom" in variable, name

for kind in ("PodDisruptionBudget", "NetworkPolicy"):
    for name, resource in of(kind).items():
        selector = resource["spec"].get("selector") or resource["spec"]["podSelector"]
        assert selector["matchLabels"] == labels[name], f"{kind} {name} is of no pod"
assert of("NetworkPolicy").keys() == labels.keys(), "a pod that everybody reaches"

(scaler,) = of("HorizontalPodAutoscaler").values()
target = scaler["spec"]["scaleTargetRef"]["name"]
assert "replicas" not in found["Deployment", target]["spec"], "two say how many"
(metric,) = scaler["spec"]["metrics"]
adapter = yaml.safe_load((folder / "prometheus-adapter.yaml").read_text())
(rule,) = adapter["externalRules"]
assert metric["external"]["metric"]["name"] == rule["name"]["as"], "autoscaling asks for another metric"
assert f"partitions = {scaler['spec']['maxReplicas']}\n" in configs[target][1], "more consumers than partitions"
