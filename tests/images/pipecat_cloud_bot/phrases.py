GREETING = "a neighbour says hello"
