"""The paper's tables and figures beside this project's results."""
