"""The contract of import-linter that nothing imports a test module or a conftest: both are for pytest alone."""

from grimp import ImportGraph
from importlinter import Contract, ContractCheck, output


class NobodyImportsTests(Contract):
    """Broken by each import of a module named `test_…` or `conftest`, whoever imports it."""

    def check(self, graph: ImportGraph, verbose: bool) -> ContractCheck:
        imports = [
            detail
            for imported in sorted(graph.modules)
            if _is_for_pytest(imported)
            for importer in sorted(graph.find_modules_that_directly_import(imported))
            for detail in graph.get_import_details(importer=importer, imported=imported)
        ]
        return ContractCheck(kept=not imports, metadata={"imports": imports})

    def render_broken_contract(self, check: ContractCheck) -> None:
        for detail in check.metadata["imports"]:
            output.print_error(f"{detail['importer']} imports {detail['imported']} (line {detail['line_number']})")
        output.print_error("What several modules need belongs in tests/support.")


def _is_for_pytest(module: str) -> bool:
    name = module.rpartition(".")[2]
    return name == "conftest" or name.startswith("test_")
