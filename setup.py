"""The one thing pyproject.toml has no words for: a folder beside the packages, shipped in one."""

from setuptools import find_namespace_packages, setup

# The code is named here, so that miniature/, tests/ and benchmarks/ are never shipped. deploy/ (run
# configs, Serve configs, the miniature models) is data; alphagrpo/shipped.py finds it in a checkout
# and in an installed wheel. Namespace packages, because setuptools calls any folder with data one.
code = find_namespace_packages(
    include=["alphagrpo*", "actors*", "services*"], exclude=["*__pycache__*"]
)
data = find_namespace_packages(
    "deploy", include=["configs", "serve", "models", "models.*"], exclude=["*.training*"]
)
setup(
    packages=[*code, "alphagrpo.deploy", *(f"alphagrpo.deploy.{name}" for name in data)],
    package_dir={"alphagrpo.deploy": "deploy"},
)
