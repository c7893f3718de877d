"""The reserve: machines that wait for sessions. `policy` decides how many, `simulate` shows what a setting
gives."""
