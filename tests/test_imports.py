"""No circles among modules, those for type checkers alone included."""

from graphlib import TopologicalSorter

import grimp


def test_no_module_imports_itself_by_way_of_others():
    graph = grimp.build_graph("voxfit", include_external_packages=False, exclude_type_checking_imports=False)
    imports = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    assert "voxfit.running.run_folder" in imports["voxfit.running.fit"]
    TopologicalSorter(imports).prepare()  # CycleError names the circle
