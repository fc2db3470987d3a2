"""The paper's comparisons on the motion benchmark: each table consists of cells, and a cell is one training run."""
