"""Fields of requests and answers as typed models; what they mean and their fixed bounds."""
