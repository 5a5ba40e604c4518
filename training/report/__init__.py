"""Report of a run: charts, and one page that holds them all."""
