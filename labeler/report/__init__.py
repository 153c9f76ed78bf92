"""The report: statistics of a comparison, and the page, figures and tables that show them."""
