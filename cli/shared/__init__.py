"""What several commands share: options, output, tables, wording, result folders."""
