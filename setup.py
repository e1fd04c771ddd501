"""The ament_python package; what a development machine needs beside it is in requirements.txt."""

from glob import glob

from setuptools import find_packages, setup

PACKAGE = "stmem_ros"

setup(
    name=PACKAGE,
    version="0.1.0",
    description="Video semantic segmentation for ROS 2 with temporal fusion and memory-augmented refinement",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=find_packages(include=["stmem_ros", "stmem_ros.*", "training", "training.*"]),
    package_data={
        "stmem_ros": ["models/*.safetensors", "py.typed"],
        "training": [
            *("configs/*.yaml", "configs/paper/*.yaml", "datasets/*.yaml", "datasets/*/*.txt"),
            *("bag/report/*.html", "bag/report/*.css", "bag/report/*.js"),
        ],
    },
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{PACKAGE}"]),
        (f"share/{PACKAGE}", ["package.xml", "LICENSE", "README.md", "CHANGELOG.rst"]),
        (f"share/{PACKAGE}/docs", glob("docs/*.md")),
        (f"share/{PACKAGE}/launch", glob("launch/*.launch.py")),
        (f"share/{PACKAGE}/config", glob("config/*")),
    ],
    install_requires=["setuptools"],
    # How colcon test knows that pytest runs the tests.
    extras_require={"test": ["pytest"]},
    zip_safe=False,
    entry_points={
        "console_scripts": [
            "segmentation_node = stmem_ros.node.segmentation_node:main",
            "replay_node = stmem_ros.node.replay_node:main",
            "demo = stmem_ros.node.demo:main",
            "bag = stmem_ros.bag.__main__:main",
            "benchmark = stmem_ros.benchmark.__main__:main",
            "train = training.train:main",
            "evaluate = training.evaluate:main",
            "build_memory = training.build_memory:main",
            "check_dataset = training.check_dataset:main",
            "extract_bag = training.extract_bag:main",
            "extract_film = training.extract_film:main",
            "export = training.export:main",
            "import_weights = training.import_weights:main",
            "operating_points = training.operating_points:main",
            "reproduce = training.reproduce:main",
        ]
    },
)
