"""A recipe as Kubernetes objects: kustomize's output, pod sizes, RayJob and RayService.

The commands import it.
Manifests are in `k8s/`; `render.py` fills in the recipe's values, `pods.py` computes pod counts.
"""
