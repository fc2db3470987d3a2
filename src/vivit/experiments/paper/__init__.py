"""The paper's comparisons on the motion benchmark: each table is made of cells, and a cell is one training."""
