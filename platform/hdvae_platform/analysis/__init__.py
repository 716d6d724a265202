"""The numbers of many runs, compared: arms, intervals, differences, trends, verdicts, caveats."""
