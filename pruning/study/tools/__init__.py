"""Result files of any verifiers, as VNN-COMP writes them, compared: solved, contradictions, PAR-2, points."""
