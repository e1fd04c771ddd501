"""The paper's tables and figures beside what one's own data and weights give."""
